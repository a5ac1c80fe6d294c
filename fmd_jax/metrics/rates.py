"""QVR, FDR and the shares of what could not be judged."""

import numpy as np
import pandas as pd

from fmd_jax.metrics.bootstrap import (
  LEVEL,
  RESAMPLES,
  Estimate,
  cluster_sums,
  ratio_estimates,
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


def distinct_failures(df: pd.DataFrame) -> int:
  """Failures counted once for each (image, question)."""
  failures = df.loc[flags(df)["failure"], ["image_id", "question"]]
  return len(failures.drop_duplicates())
