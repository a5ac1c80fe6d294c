"""How many failures stood being asked again, and which."""

from typing import Any

import pandas as pd

from fmd_jax import metrics
from fmd_jax.report.parts import rate, text_of
from fmd_jax.report.reading import Run

_OUTCOMES = ("passed", "failed", "unscored", "not reached")
_CHECKS = ("again", "paraphrase", "second_judge", "needs_image", "unambiguous")


def parts(run: Run) -> dict[str, Any]:
  """What the template needs of the tiers; `{}` when nothing was asked again."""
  if run.confirmed is None:
    return {}
  table, statement = run.confirmed
  found = metrics.survivors(table)
  return {
    "rows": [
      (tier, name, f"{estimate.count:,} of {estimate.n:,}", rate(estimate._asdict()))
      for (tier, name), estimate in zip(metrics.TIERS.items(), found, strict=True)
    ],
    "asked": len(table),
    "failures": statement["failures"],
    "open": int(table["open"].sum()),
    "samples": statement["settings"]["samples"],
    "second": statement["settings"]["models"]["second"],
    "checks": [
      (name.replace("_", " "), [int((table[name] == what).sum()) for what in _OUTCOMES])
      for name in _CHECKS
    ],
    "outcomes": _OUTCOMES,
  }


def columns(rows: pd.DataFrame, run: Run) -> dict[str, list]:
  """The tier of each row of the browser (0: not a failure that was asked again), and
  what was found."""
  if run.confirmed is None:
    return {"tier": [0] * len(rows), "found": [""] * len(rows)}
  table = run.confirmed.table
  tiers = metrics.tier_of(rows, table)["tier"].fillna(0).astype(int).tolist()
  wrong = rows["shown_as"] == "wrong"
  why = dict(zip(zip(table["image_id"], table["question"]), table["why"]))
  keys = zip(rows["image_id"], rows["question"])
  return {
    "tier": [tier if own else 0 for tier, own in zip(tiers, wrong)],
    "found": [text_of(why.get(key)) if own else "" for key, own in zip(keys, wrong)],
  }
