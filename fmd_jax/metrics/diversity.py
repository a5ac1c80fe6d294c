"""Semantic and lexical diversity: Vendi score and prefix entropy."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from fmd_jax.rewards import prefix

PREFIX_LENGTH = 2  # of the metric, whatever the reward's is
_CHUNK = 16384


def _unit(vectors: np.ndarray) -> np.ndarray:
  unit = np.array(vectors, np.float64)
  # In place, and without the array of squares that linalg.norm makes.
  norms = np.sqrt(np.einsum("ij,ij->i", unit, unit))
  if not norms.all():
    raise ValueError("an embedding is 0: it has no cosine with anything")
  unit /= norms[:, None]
  return unit


def vendi(
  embeddings: Float[np.ndarray, "N E"], rows: Int[np.ndarray, "R"] | None = None
) -> float:
  """The Vendi score, q = 1, cosine kernel: exp(-sum l ln l), l = eigenvalues of K/N.

  The non-zero eigenvalues of K/N are those of the smaller of the N x N and E x E
  matrices (the dual form), so time is N E^2 and memory E^2 for many rows.
  https://arxiv.org/abs/2210.02410

  Args:
    embeddings: [N, E], of any length but 0.
    rows: of which the score is; None for all. They are taken chunk by chunk: a sample
      of a million rows is never copied.

  Returns:
    Between 1 (all alike) and min(N, E); 0 for no rows.
  """
  n, width = np.shape(embeddings)
  n = n if rows is None else len(rows)

  def part(start: int) -> np.ndarray:
    span = slice(start, start + _CHUNK)
    return _unit(embeddings[span if rows is None else rows[span]])

  if not n:
    return 0.0
  if n <= width:
    unit = part(0)
    matrix = unit @ unit.T
  else:
    matrix = np.zeros((width, width))
    for start in range(0, n, _CHUNK):
      unit = part(start)
      matrix += unit.T @ unit
  eigenvalues = np.linalg.eigvalsh(matrix / n)
  positive = eigenvalues[eigenvalues > 1e-15]
  return float(np.exp(-(positive * np.log(positive)).sum()))


def mean_cosine(embeddings: Float[np.ndarray, "N E"]) -> float | None:
  """Mean cosine over all pairs of different rows; None for fewer than two."""
  n = len(embeddings)
  if n < 2:
    return None
  total = sum(_unit(embeddings[i : i + _CHUNK]).sum(0) for i in range(0, n, _CHUNK))
  return float((total @ total - n) / (n * (n - 1)))


def prefix_entropy(questions: Sequence[str]) -> dict[str, float | int | None]:
  """LD = H(first two words) / ln N, and the other readings of the paper's LD.

  Args:
    questions: N texts.

  Returns:
    "ld" (H / ln N, None for fewer than two questions), "entropy" (H in nats),
    "exp_entropy" (effective number of prefixes), "evenness" (H / ln K, 0 for a
    single prefix), "distinct" (K) and "n".
  """
  n = len(questions)
  texts = Counter(questions)
  counts: Counter[str] = Counter()
  for text, times in texts.items():
    counts[prefix(text, PREFIX_LENGTH)] += times
  shares = [count / n for count in counts.values()]
  # max: a single prefix gives -0.0.
  entropy = max(0.0, -math.fsum(share * math.log(share) for share in shares))
  return {
    "ld": entropy / math.log(n) if n > 1 else None,
    "entropy": entropy,
    "exp_entropy": math.exp(entropy) if n else 0.0,
    "evenness": entropy / math.log(len(counts)) if len(counts) > 1 else 0.0,
    "distinct": len(counts),
    "n": n,
  }


def rarefied(
  measure: Callable[[np.ndarray], float],
  n: int,
  common_n: int,
  *,
  draws: int = 5,
  seed: int = 0,
) -> float | None:
  """A measure at a common number of rows, so that methods can be compared.

  Args:
    measure: indices of some rows, sorted -> number.
    n: the rows there are.
    common_n: how many are drawn, without replacement.
    draws: the result is their mean; one suffices when common_n is n.
    seed: of the draws.

  Returns:
    The mean, or None when there are fewer than common_n rows or none is asked for.
  """
  if common_n > n or common_n < 1:
    return None
  if common_n == n:
    return float(measure(np.arange(n)))
  generator = np.random.default_rng(seed)
  drawn = (np.sort(generator.choice(n, common_n, replace=False)) for _ in range(draws))
  return float(np.mean([measure(indices) for indices in drawn]))
