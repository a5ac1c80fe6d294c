"""QVR, FDR and the shares of what could not be judged."""

from typing import Any

import numpy as np
import pandas as pd

from fmd_jax.metrics.bootstrap import (
  LEVEL,
  RESAMPLES,
  Estimate,
  cluster_sums,
  percentiles,
  ratio_estimates,
  resample_sums,
)

# rate -> (numerator, denominator), both names of `flags`.
RATES = {
  "qvr": ("valid", "scored"),
  "fdr": ("failure", "valid"),
  "unparsed": ("unparsed", "asked"),
  "unscored": ("unscored", "asked"),
}


def flags(df: pd.DataFrame) -> dict[str, np.ndarray]:
  """What each row counts as, from its status and the judge's columns.

  Args:
    df: [N] rows with the columns status, valid and correct, of the verifier or of
      an independent evaluator.

  Returns:
    Boolean arrays [N]: `asked` (all), `unparsed`, `unscored`, `scored` (all but the
    unscored: an unparsed slot counts as an invalid question), `valid`, `failure`
    (valid and answered wrongly).

  Raises:
    ValueError: for a valid row whose `correct` is null.
  """
  status = df["status"].to_numpy(object)
  ok = status == "ok"
  valid = ok & df["valid"].eq(True).fillna(False).to_numpy(bool)
  if df.loc[valid, "correct"].isna().any():
    raise ValueError("a valid row has no `correct`; its status should be 'unscored'")
  correct = df["correct"].eq(True).fillna(False).to_numpy(bool)
  return {
    "asked": np.ones(len(df), bool),
    "unparsed": status == "unparsed",
    "unscored": status == "unscored",
    "scored": status != "unscored",
    "valid": valid,
    "failure": valid & ~correct,
  }


def rates(
  df: pd.DataFrame,
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, Estimate]:
  """QVR = valid / scored, FDR = wrong / valid, unparsed and unscored of all asked.

  Args:
    df: rows with image_id, status, valid, correct.
    resamples: draws of the bootstrap, clustered by image.
    seed: of the draws.
    level: of the intervals.

  Returns:
    "qvr", "fdr", "unparsed", "unscored" -> `Estimate`.
  """
  if df.empty:
    return dict.fromkeys(RATES, Estimate(None, None, None, 0, 0))
  columns = flags(df)
  names = list(RATES)
  wanted = [columns[RATES[name][side]] for side in (0, 1) for name in names]
  _, sums = cluster_sums(df["image_id"], wanted)
  counts, totals = sums[:, : len(names)], sums[:, len(names) :]
  found = ratio_estimates(counts, totals, resamples=resamples, seed=seed, level=level)
  return dict(zip(names, found))


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

  The same images are drawn for both when the sets hold the same images (paired);
  otherwise the two are drawn independently. When both rates are 0 or 1 the
  bootstrap knows nothing and no interval is given.

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
  paired = images_a.equals(images_b)
  if not (sums_a[:, 1].sum() and sums_b[:, 1].sum()):
    nothing = {"value": None, "low": None, "high": None}
    return {"ratio": nothing, "difference": nothing, "paired": paired}
  if paired:
    drawn = resample_sums(np.concatenate([sums_a, sums_b], 1), resamples, seed)
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


def distinct_failures(df: pd.DataFrame) -> int:
  """Failures counted once for each (image, question)."""
  failures = df.loc[flags(df)["failure"], ["image_id", "question"]]
  return len(failures.drop_duplicates())
