"""Signs that a questioner cheats its judge instead of finding failures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import metrics, records
from fmd_jax.analysis.rows import arms, interval, windows
from fmd_jax.metrics.bootstrap import LEVEL, RESAMPLES, percentiles, resample_sums
from fmd_jax.metrics.skills import KEY

WINDOWS = 10


def judged(workdirs: Sequence[epath.Path], rows: pd.DataFrame) -> pd.DataFrame:
  """Joins each evaluated row with what the training verifier said of it.

  Args:
    workdirs: of the runs; those without records are left out.
    rows: of `rows.read`.

  Returns:
    `rows` and: verifier_status, verifier_valid, verifier_correct, group_id,
    response_reward.
  """
  parts = []
  for workdir in workdirs:
    own = rows[rows["workdir"] == str(workdir)]
    for (method, split), part in own.groupby(["method", "split"]):
      if method not in records.methods(workdir, split):
        continue
      said = records.read(workdir, method, split)
      said = said.rename(
        columns={name: f"verifier_{name}" for name in ("status", "valid", "correct")}
      )
      kept = [f"verifier_{name}" for name in ("status", "valid", "correct")]
      said = said[[*KEY, *kept, "group_id", "response_reward"]]
      parts.append(part.merge(said, on=KEY, how="inner", validate="one_to_one"))
  return pd.concat(parts, ignore_index=True) if parts else rows.iloc[:0]


def panel(both: pd.DataFrame) -> pd.DataFrame:
  """The signs, for each arm and protocol over all and, while training, by window.

  Args:
    both: of `judged`.

  Returns:
    arm, protocol, window (-1: all), step (its first), questions;
    verifier_qvr, evaluator_qvr, verifier_fdr, evaluator_fdr with _low and _high;
    qvr_gap, fdr_gap (verifier - evaluator, of rows that both have judged) with _low and
    _high; denied: of the failures that the verifier rewarded, the share that the
    evaluator denies, with _low and _high;
    top_prefix and top_prefix_share, effective_prefixes (exp of their entropy), repeats
    (the share of valid questions that repeat one about the same image);
    zero_variance (the share of groups whose responses all got one reward, so that they
    teach nothing; None without rewards); unparsed, unscored (by the verifier).
  """
  out = []
  for arm, protocol, own in arms(both):
    parts = [(-1, own)]
    if protocol == "during" and own["step"].nunique() > 1:
      window = windows(own["step"], WINDOWS)
      parts += [(w, own[window == w]) for w in range(WINDOWS) if (window == w).any()]
    for window, part in parts:
      line = {"arm": arm, "protocol": protocol, "window": window}
      line |= {"step": int(part["step"].min()), "questions": len(part)}
      out.append(line | _judges(part) | _variety(part) | _groups(part))
  return pd.DataFrame(out)


def _judges(part: pd.DataFrame) -> dict:
  said = part.assign(
    status=part["verifier_status"],
    valid=part["verifier_valid"],
    correct=part["verifier_correct"],
  )
  out = {}
  for judge, table in (("verifier", said), ("evaluator", part)):
    found = metrics.rates(table)
    out |= interval(f"{judge}_qvr", found["qvr"]) | interval(
      f"{judge}_fdr", found["fdr"]
    )
  # The same rows for both: a row that one of them left unscored says nothing.
  ours, theirs = metrics.flags(said), metrics.flags(part)
  scored = ours["scored"] & theirs["scored"]
  images = part["image_id"][scored]
  for rate, name, base in (("qvr", "valid", "scored"), ("fdr", "failure", "valid")):
    columns = [c[name][scored] for c in (ours, theirs)]
    totals = [c[base][scored] for c in (ours, theirs)]
    _, sums = metrics.cluster_sums(images, [*columns, *totals])
    out |= interval(f"{rate}_gap", _difference(sums))
  rewarded = ours["failure"] & scored
  _, sums = metrics.cluster_sums(
    part["image_id"], [rewarded & ~theirs["failure"], rewarded]
  )
  (denied,) = metrics.ratio_estimates(sums[:, :1], sums[:, 1:])
  return out | interval("denied", denied)


def _difference(sums: np.ndarray) -> dict:
  """a / c - b / d of the columns a, b, c, d, with a bootstrap over the rows."""
  with np.errstate(divide="ignore", invalid="ignore"):
    a, b, c, d = sums.sum(0)
    value = a / c - b / d
    drawn = resample_sums(sums, RESAMPLES, 0)
    draws = drawn[:, 0] / drawn[:, 2] - drawn[:, 1] / drawn[:, 3]
  low, high = percentiles(draws, LEVEL)
  return {
    "value": float(value) if np.isfinite(value) else None, "low": low, "high": high
  }  # fmt: skip


def _variety(part: pd.DataFrame) -> dict:
  valid = part[part["valid"]]
  counts = valid["prefix"].value_counts()
  top = counts.index[0] if len(counts) else None
  distinct = valid.drop_duplicates(["image_id", "question"])
  return {
    "top_prefix": top,
    "top_prefix_share": counts.iloc[0] / len(valid) if len(counts) else None,
    "effective_prefixes": metrics.prefix_entropy(valid["question"].tolist())[
      "exp_entropy"
    ],
    "repeats": 1 - len(distinct) / len(valid) if len(valid) else None,
  }


def _groups(part: pd.DataFrame) -> dict:
  rewards = part.drop_duplicates(["group_id", "response_index"])
  rewards = rewards[rewards["response_reward"].notna()]
  spread = rewards.groupby("group_id")["response_reward"].agg(["min", "max", "size"])
  said = part["verifier_status"]
  return {
    "zero_variance": float((spread["min"] == spread["max"]).mean())
    if len(spread)
    else None,
    "unparsed": float((said == "unparsed").mean()),
    "unscored": float((said == "unscored").mean()),
  }
