"""What happened over the steps, from the rows and the measurements."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fmd_jax import metrics

POINTS = 40  # of a curve; more would show noise, not course


def bins(step: pd.Series) -> pd.Series:
  """The bin of each row: whole steps, at most `POINTS` bins of equal width."""
  first, last = step.min(), step.max()
  return (step - first) // max(1, int(np.ceil((last - first + 1) / POINTS)))


def over_steps(rows: pd.DataFrame) -> pd.DataFrame:
  """QVR, FDR and prefix entropy of one method's rows, in bins of steps.

  Args:
    rows: with step, status, question, valid, correct.

  Returns:
    One row for each bin: step (its middle), qvr, fdr, ld; NaN where there is no data.
  """
  out = []
  for _, part in rows.groupby(bins(rows["step"])) if len(rows) else ():
    flags = metrics.flags(part)
    count = {name: int(flag.sum()) for name, flag in flags.items()}
    ld = metrics.prefix_entropy(part.loc[flags["valid"], "question"].tolist())["ld"]
    out.append(
      {
        "step": (part["step"].min() + part["step"].max()) / 2,
        "qvr": count["valid"] / count["scored"] if count["scored"] else np.nan,
        "fdr": count["failure"] / count["valid"] if count["valid"] else np.nan,
        "ld": np.nan if ld is None else ld,
      }
    )
  return pd.DataFrame(out, columns=["step", "qvr", "fdr", "ld"], dtype=float)


def measured(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
  """(family/name, method, frame of step and value), averaged over bins of steps.

  Args:
    rows: of `records.read_measurements`.
  """
  for key in sorted(name for name in rows.columns if "/" in name):
    values = rows.assign(value=pd.to_numeric(rows[key], errors="coerce"))
    for method, own in values.dropna(subset="value").groupby("method"):
      frame = own[["step", "value"]].astype(float)
      yield key, method, frame.groupby(bins(frame["step"])).mean()
