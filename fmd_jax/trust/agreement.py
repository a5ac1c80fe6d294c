"""How far raters, and a judge and the raters, agree on yes-or-no questions.

Labels are [N items, R raters] of 0, 1 and NaN for "did not rate". None stands for what
is not defined: no two raters, or no two labels to tell apart. Weights are [N], one over
the probability with which an item was drawn: without them a sample that favours some
verdicts gives the agreement on itself, not on all questions.
"""

import numpy as np
from jaxtyping import Float

from fmd_jax.metrics import Estimate, ratio_estimates


def majority(labels: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "N"]:
  """The label that most raters of an item gave; NaN for a tie or no rater."""
  n = (~np.isnan(labels)).sum(1)
  ones = np.nansum(labels, 1)
  return np.where(2 * ones > n, 1.0, np.where(2 * ones < n, 0.0, np.nan))


def percent_agreement(
  a: Float[np.ndarray, "N"],
  b: Float[np.ndarray, "N"],
  weight: Float[np.ndarray, "N"] | None = None,
) -> float | None:
  """The share of items that both label alike (the paper's figure is a judge's with the
  majority); items that one of them did not label are left out.
  """
  a, b, w = _both(a, b, weight)
  return float(np.average(a == b, weights=w)) if len(a) else None


def cohen_kappa(
  a: Float[np.ndarray, "N"],
  b: Float[np.ndarray, "N"],
  weight: Float[np.ndarray, "N"] | None = None,
) -> float | None:
  """Agreement beyond that of two who label at random with these shares.

  https://doi.org/10.1177/001316446002000104
  """
  a, b, w = _both(a, b, weight)
  if not len(a):
    return None
  one, other = np.average(a, weights=w), np.average(b, weights=w)
  chance = one * other + (1 - one) * (1 - other)
  return _beyond(np.average(a == b, weights=w), chance)


def gwet_ac1(
  labels: Float[np.ndarray, "N R"], weight: Float[np.ndarray, "N"] | None = None
) -> float | None:
  """Gwet's AC1: as kappa, but not lowered by one label being rare.

  For two or more raters with gaps; items with one rating count for the shares only.
  https://doi.org/10.1348/000711006X126600
  """
  ones, n = np.nansum(labels, 1), (~np.isnan(labels)).sum(1)
  if not (n > 1).any():
    return None
  w = np.ones(len(n)) if weight is None else np.asarray(weight, float)
  pairs, m = n > 1, n[n > 1]
  k = ones[pairs]
  agreed = (k * (k - 1) + (m - k) * (m - k - 1)) / (m * (m - 1))
  agreed = np.average(agreed, weights=w[pairs])
  share = np.average(ones[n > 0] / n[n > 0], weights=w[n > 0])
  return _beyond(agreed, 2 * share * (1 - share))


def krippendorff_alpha(labels: Float[np.ndarray, "N R"]) -> float | None:
  """Krippendorff's alpha for two nominal labels; None when only one label is used.

  https://repository.upenn.edu/asc_papers/43
  """
  n = (~np.isnan(labels)).sum(1)
  k, m = np.nansum(labels, 1)[n > 1], n[n > 1]
  total, ones = m.sum(), k.sum()
  expected = 2 * ones * (total - ones)
  if not expected:
    return None
  observed = (2 * k * (m - k) / (m - 1)).sum()
  return float(1 - (total - 1) * observed / expected)


def accuracy_by_margin(
  judge: Float[np.ndarray, "N"], labels: Float[np.ndarray, "N R"], image_ids
) -> dict[str, Estimate]:
  """Agreement with the majority, apart for 5-0, 4-1 and 3-2 items.

  A judge that errs where people disagree is another than one that errs everywhere.

  Args:
    judge: 0, 1 or NaN.
    labels: of the raters.
    image_ids: [N]; intervals are clustered by image.

  Returns:
    "5-0", "4-1", … (votes of the majority first; ties and unlabelled items are left
    out), most agreed first -> `Estimate`.
  """
  n = (~np.isnan(labels)).sum(1)
  most = np.maximum(np.nansum(labels, 1), n - np.nansum(labels, 1)).astype(int)
  truth = majority(labels)
  kept = ~np.isnan(truth) & ~np.isnan(judge)
  images = np.unique(np.asarray(image_ids, object).astype(str), return_inverse=True)[1]
  out = {}
  for a, b in sorted({(m, k - m) for m, k in zip(most[kept], n[kept])}, reverse=True):
    own = kept & (most == a) & (n == a + b)
    counts, totals = (
      np.bincount(images[x], minlength=images.max() + 1)[:, None]
      for x in (own & (judge == truth), own)
    )
    out[f"{a}-{b}"] = ratio_estimates(counts, totals)[0]
  return out


def _both(a: np.ndarray, b: np.ndarray, weight: np.ndarray | None) -> list[np.ndarray]:
  a, b = np.asarray(a, float), np.asarray(b, float)
  w = np.ones(len(a)) if weight is None else np.asarray(weight, float)
  there = ~np.isnan(a) & ~np.isnan(b)
  return [a[there], b[there], w[there]]


def _beyond(agreed: float, chance: float) -> float | None:
  return float((agreed - chance) / (1 - chance)) if chance < 1 else None
