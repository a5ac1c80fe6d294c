"""Two methods beside each other: ratios and differences, overall and skill by skill."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from fmd_jax.metrics.bootstrap import (
  LEVEL,
  RESAMPLES,
  cluster_sums,
  percentiles,
  resample_sums,
)
from fmd_jax.metrics.rates import RATES, flags
from fmd_jax.metrics.skills import RATED_MORE_THAN, incidence


def compare(
  a: pd.DataFrame,
  b: pd.DataFrame,
  rate: str = "fdr",
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, Any]:
  """One rate of two sets of rows: a / b and a - b, with intervals.

  Sets that share images are paired: images are drawn from the union of both, and one
  drawn brings the rows of both along. Otherwise the two are drawn independently. When
  both rates are 0 or 1 the bootstrap knows nothing and no interval is given.

  Args:
    a: rows of one method.
    b: rows of the other, the baseline.
    rate: "qvr", "fdr", "unparsed" or "unscored".
    resamples: draws of the bootstrap, clustered by image.
    seed: of the draws.
    level: of the intervals.

  Returns:
    {"ratio", "difference"} -> dict of value, low, high; and "paired".
  """
  numerator, denominator = RATES[rate]
  sides = []
  for df in (a, b):
    columns = flags(df)
    sides.append(
      cluster_sums(df["image_id"], [columns[numerator], columns[denominator]])
    )
  (images_a, sums_a), (images_b, sums_b) = sides
  paired = bool(images_a.isin(images_b).any())
  if not (sums_a[:, 1].sum() and sums_b[:, 1].sum()):
    nothing = {"value": None, "low": None, "high": None}
    return {"ratio": nothing, "difference": nothing, "paired": paired}
  if paired:
    union = images_a.union(images_b)
    joint = np.zeros((len(union), 4))
    joint[union.get_indexer(images_a), :2] = sums_a
    joint[union.get_indexer(images_b), 2:] = sums_b
    drawn = resample_sums(joint, resamples, seed)
  else:
    # Two streams: with one seed, equal numbers of images would be drawn alike.
    seeds = np.random.SeedSequence(seed).generate_state(2)
    parts = zip((sums_a, sums_b), seeds)
    drawn = np.concatenate([resample_sums(s, resamples, int(x)) for s, x in parts], 1)
  value_a, value_b = (sums[:, 0].sum() / sums[:, 1].sum() for sums in (sums_a, sums_b))
  known = not {value_a, value_b} <= {0.0, 1.0}
  with np.errstate(divide="ignore", invalid="ignore"):
    first, second = (x[:, 0] / x[:, 1] for x in (drawn[:, :2], drawn[:, 2:]))
    draws = {"ratio": first / second, "difference": first - second}
    values = {"ratio": value_a / value_b, "difference": value_a - value_b}
  out: dict[str, Any] = {"paired": paired}
  for name, value in values.items():
    low, high = percentiles(draws[name], level) if known else (None, None)
    finite = float(value) if np.isfinite(value) else None
    out[name] = {"value": finite, "low": low, "high": high}
  return out


def fdr_ratio(
  a: pd.DataFrame,
  b: pd.DataFrame,
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, float | bool | None]:
  """FDR of `a` over FDR of `b`: value, low, high and whether paired by image."""
  found = compare(a, b, "fdr", resamples=resamples, seed=seed, level=level)
  return found["ratio"] | {"paired": found["paired"]}


def benjamini_hochberg(p: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
  """Adjusted p-values: those up to q hold the false discovery rate at q.

  https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
  """
  order = np.argsort(p, kind="stable")
  scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
  out = np.empty(len(p))
  # The least of those after it: a larger p never gets the smaller q.
  out[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
  return out


def compare_skills(
  a: pd.DataFrame,
  b: pd.DataFrame,
  *,
  more_than: int = RATED_MORE_THAN,
  level: float = LEVEL,
) -> list[dict[str, Any]]:
  """FDR of `a` minus FDR of `b`, skill by skill.

  The standard error is that of the linearised difference, summed over images, so it is
  paired where both asked about an image; p is of Student's t with one degree of freedom
  less than there are images with a question of the skill.

  Args:
    a: rows of one method, with `skills`, a list.
    b: rows of the other.
    more_than: both have more valid questions of a skill than this.
    level: of the intervals.

  Returns:
    One dict a skill, by name: skill, n_a, n_b, fdr_a, fdr_b, difference, low, high, p,
    and q, which is p adjusted over these skills. low, high, p and q are None where
    every image agrees, or there is one: nothing is known of the error.
  """
  known = [incidence(df) for df in (a, b)]
  images = known[0].images.union(known[1].images)
  common = [name for name in known[0].names if name in set(known[1].names)]
  if not common:
    return []
  total, wrong = np.zeros((2, 2, len(images), len(common)))
  for side, own in enumerate(known):
    failures, n = own.sums()
    columns = [own.names.index(name) for name in common]
    rows = images.get_indexer(own.images)
    total[side][rows], wrong[side][rows] = n[:, columns], failures[:, columns]
  n = total.sum(1)
  kept = np.flatnonzero((n > more_than).all(0))
  out = [_difference(wrong[:, :, k], total[:, :, k], level) for k in kept]
  tested = [row for row in out if row["p"] is not None]
  adjusted = benjamini_hochberg(np.array([row["p"] for row in tested]))
  for row, q in zip(tested, adjusted.tolist()):
    row["q"] = q
  return [{"skill": common[k], **row} for k, row in zip(kept, out)]


def _difference(
  wrong: Float[np.ndarray, "2 I"], total: Float[np.ndarray, "2 I"], level: float
) -> dict[str, Any]:
  n = total.sum(1)
  rates = wrong.sum(1) / n
  there = total.any(0)
  residuals = ((wrong - rates[:, None] * total) / n[:, None])[:, there]
  images = int(there.sum())
  spread = float(((residuals[0] - residuals[1]) ** 2).sum())
  difference = float(rates[0] - rates[1])
  out = {
    "n_a": int(n[0]),
    "n_b": int(n[1]),
    "fdr_a": float(rates[0]),
    "fdr_b": float(rates[1]),
    "difference": difference,
    **dict.fromkeys(("low", "high", "p", "q")),
  }
  # Below rounding: every image agrees.
  if images < 2 or spread < 1e-24:
    return out
  error = (spread * images / (images - 1)) ** 0.5
  half = float(stats.t.ppf(0.5 + level / 2.0, images - 1)) * error
  p = float(2.0 * stats.t.sf(abs(difference) / error, images - 1))
  return out | {"low": difference - half, "high": difference + half, "p": p}
