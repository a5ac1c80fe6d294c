"""Intervals for rates of questions that come in clusters, one for each image."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

RESAMPLES = 1000
LEVEL = 0.95
# Entries of the resampling matrix held at a time: 32 MB of float64.
_CHUNK = 4_000_000


class Estimate(NamedTuple):
  """A rate or ratio with its interval; None is what cannot be said.

  Attributes:
    value: None when the denominator is 0.
    low: lower end of the interval; None when it cannot be given.
    high: upper end; None when it cannot be given or is unbounded.
    count: the numerator.
    n: the denominator.
  """

  value: float | None
  low: float | None
  high: float | None
  count: int
  n: int


def cluster_sums(
  image_ids: Sequence[str] | pd.Series, columns: Sequence[np.ndarray]
) -> tuple[pd.Index, Float[np.ndarray, "I C"]]:
  """Per-image sums of some 0/1 columns.

  Args:
    image_ids: [N].
    columns: C arrays of [N].

  Returns:
    The I image ids, sorted, and [I, C] sums.
  """
  codes, images = pd.factorize(pd.Series(image_ids), sort=True)
  sums = [
    np.bincount(codes, weights=np.asarray(c, np.float64), minlength=len(images))
    for c in columns
  ]
  # Of no rows bincount gives integers.
  return pd.Index(images), np.stack(sums, axis=1).astype(np.float64)


def resample_sums(
  sums: Float[np.ndarray, "I C"], resamples: int, seed: int
) -> Float[np.ndarray, "R C"]:
  """Column sums over `resamples` draws of I images with replacement.

  Args:
    sums: [I, C] per-image sums; all columns see the same draws.
    resamples: R.
    seed: of the draws.

  Returns:
    [R, C].
  """
  images = len(sums)
  generator = np.random.default_rng(seed)
  out = np.zeros((resamples, sums.shape[1]))
  if not images:
    return out
  chunk = max(1, _CHUNK // images)
  for start in range(0, resamples, chunk):
    size = min(chunk, resamples - start)
    drawn = generator.integers(0, images, (size, images))
    drawn += np.arange(size)[:, None] * images
    times = np.bincount(drawn.ravel(), minlength=size * images)
    out[start : start + size] = times.reshape(size, images).astype(np.float64) @ sums
  return out


def percentiles(values: np.ndarray, level: float) -> tuple[float | None, float | None]:
  """The percentile interval; NaN draws (0/0) are left out, infinity becomes None."""
  values = values[~np.isnan(values)]
  if not len(values):
    return None, None
  tail = (1.0 - level) / 2.0
  # Not the default method: it interpolates, and inf - inf is NaN.
  ends = np.quantile(values, [tail, 1.0 - tail], method="inverted_cdf")
  low, high = (float(end) if np.isfinite(end) else None for end in ends)
  return low, high


def effective_n(totals: Float[np.ndarray, "I"]) -> float:
  """(sum n_i)^2 / sum n_i^2: the questions' worth when an image's all agree.

  At a rate of 0 or 1 the correlation within images cannot be estimated; this is
  its worst case, so the interval is never too narrow.
  """
  squares = float((totals**2).sum())
  return float(totals.sum()) ** 2 / squares if squares else 0.0


def wilson(rate: float, n: float, level: float = LEVEL) -> tuple[float, float]:
  """Wilson's score interval of a rate over `n` (also fractional) trials."""
  if n <= 0:
    return 0.0, 1.0
  z = statistics.NormalDist().inv_cdf(0.5 + level / 2.0)
  centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
  half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
  # The rate is in it: at 0 and 1 rounding would leave it out.
  return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def ratio_estimates(
  counts: Float[np.ndarray, "I M"] | Int[np.ndarray, "I M"],
  totals: Float[np.ndarray, "I M"] | Int[np.ndarray, "I M"],
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> list[Estimate]:
  """M rates sum(counts) / sum(totals) with image-clustered bootstrap intervals.

  Where the bootstrap has no spread (a rate of 0 or 1, a single image), Wilson's
  interval on the effective n takes its place: it is never of zero width.

  Args:
    counts: [I, M] numerators of each image.
    totals: [I, M] denominators of each image.
    resamples: draws of the bootstrap.
    seed: of the draws.
    level: of the interval.

  Returns:
    One `Estimate` for each of the M columns.
  """
  counts, totals = np.asarray(counts, float), np.asarray(totals, float)
  width = counts.shape[1]
  drawn = resample_sums(np.concatenate([counts, totals], 1), resamples, seed)
  out = []
  for m in range(width):
    count, total = counts[:, m].sum(), totals[:, m].sum()
    if not total:
      out.append(Estimate(None, None, None, 0, 0))
      continue
    rate = float(count / total)
    with np.errstate(divide="ignore", invalid="ignore"):
      low, high = percentiles(drawn[:, m] / drawn[:, width + m], level)
    if rate in (0.0, 1.0) or low is None or low == high:
      low, high = wilson(rate, effective_n(totals[:, m]), level)
    out.append(Estimate(rate, low, high, int(count), int(total)))
  return out
