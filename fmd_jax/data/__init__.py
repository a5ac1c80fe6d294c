"""Where images come from: sources named by a spec, and the batches of a run."""

from fmd_jax.data.batches import batches
from fmd_jax.data.corpora import Corpus, Origin, open_corpus
from fmd_jax.data.folder import open_folder
from fmd_jax.data.huggingface import open_huggingface
from fmd_jax.data.jsonl import open_jsonl
from fmd_jax.data.sources import Skipped, Source, describe
from fmd_jax.data.testbed import Testbed
from fmd_jax.data.tfds import open_tfds
from fmd_jax.data.workers import Workers

__all__ = [
  "Corpus",
  "Origin",
  "Skipped",
  "Source",
  "Workers",
  "batches",
  "describe",
  "open",
  "open_corpus",
]

_KINDS = {
  "testbed": Testbed,
  "folder": open_folder,
  "jsonl": open_jsonl,
  "hf": open_huggingface,
  "tfds": open_tfds,
}


def open(spec: str) -> Source:
  """Opens a source of images.

  Which images it has, and their order, depend on the spec only. Sources of pictures
  have the options `limit`, `seed` (which draws them; without, the first ones) and
  `max_pixels`; a broken picture is left out, and named in `skipped`.

  Args:
    spec: see `fmd_jax/data/sources.py`.

  Raises:
    ValueError: the spec is not understood, or the source holds no picture.
    FileNotFoundError: what it names does not exist.
  """
  scheme, mark, rest = spec.partition("://")
  if not mark or scheme not in _KINDS:
    known = ", ".join(f"{kind}://" for kind in _KINDS)
    raise ValueError(f"no source of images is named {spec!r}; there are {known}")
  location, _, query = rest.partition("?")
  try:
    return _KINDS[scheme](location, query)
  except (ValueError, FileNotFoundError) as error:
    raise type(error)(f"{spec}: {error}") from None
