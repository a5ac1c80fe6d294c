"""Corpora for supervised fine-tuning, named by a spec each.

failures:///workdir?method=grpo            what a run found, judged by its evaluator
failures://testbed/answerer_other          the same, shipped with the package
blink:///data/blink?limit=500&seed=0       a published benchmark in a folder; likewise
                                           vstar, corecognition, mmvp, mmmu_pro,
                                           ocrbench_v2, chartqapro
"""

from collections.abc import Sequence

from fmd_jax.data.corpora.benchmarks import Benchmark
from fmd_jax.data.corpora.corpus import Corpus, Item, Joined, Origin
from fmd_jax.data.corpora.failures import Failures
from fmd_jax.data.corpora.published import PUBLISHED

__all__ = ["Corpus", "Item", "Origin", "open_corpus"]


def open_corpus(
  specs: str | Sequence[str], *, allow_noncommercial: bool = False
) -> Corpus:
  """Opens what a questioner is fine-tuned on.

  Item `i` is `(ImageExample, questions)`: all questions about that image, a tuple of
  distinct plain strings, at least one. `fmd_jax.prompts.response(questions)` is the
  target text of some of them, in the format that RL's responses have.

  Args:
    specs: one spec, or several, whose corpora are joined in this order.
    allow_noncommercial: whether sets whose licence forbids commercial use, or is
      not stated, may be opened (a config key of whoever calls).

  Raises:
    ValueError: a spec is not understood, the corpus is empty, or its licence needs
      `allow_noncommercial`.
    FileNotFoundError: what the spec names does not exist.
  """
  specs = (specs,) if isinstance(specs, str) else tuple(specs)
  if not specs:
    raise ValueError("no corpus is named")
  parts = [_open_one(spec, allow_noncommercial) for spec in specs]
  return parts[0] if len(parts) == 1 else Joined(parts)


def _open_one(spec: str, allow_noncommercial: bool) -> Corpus:
  scheme, mark, rest = spec.partition("://")
  if not mark or scheme not in ("failures", *PUBLISHED):
    known = ", ".join(f"{kind}://" for kind in ("failures", *PUBLISHED))
    raise ValueError(f"no corpus is named {spec!r}; there are {known}")
  location, _, query = rest.partition("?")
  try:
    if scheme == "failures":
      return Failures(location, query)
    return Benchmark(scheme, location, query, allow_noncommercial)
  except (ValueError, FileNotFoundError) as error:
    raise type(error)(f"{spec}: {error}") from None
