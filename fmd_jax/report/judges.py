"""Whether the judges can be trusted: beside people, and beside each other."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fmd_jax import metrics, monitor
from fmd_jax.report import failures
from fmd_jax.report.parts import Estimate, rate
from fmd_jax.report.reading import Run

_STEPS = {"valid": "question valid", "correct": "answer correct"}


class Judge(NamedTuple):
  """One judge beside people.

  Attributes:
    name: its identity, and what it was.
    steps: (step, agreement, by margin, rows); agreement is "kappa" and the like ->
      number, by margin "5-0" -> its accuracy there, rows (of whom, sensitivity,
      specificity): of all, of each method, of each difficulty.
  """

  name: str
  steps: list[tuple[str, dict[str, str], dict[str, Estimate], list[tuple]]]


def beside_people(run: Run) -> list[Judge]:
  """The judges that somebody measured, the evaluator first."""
  roles = {run.model(role, ""): role for role in ("verifier", "evaluator")}
  order = sorted(run.calibration, key=lambda name: roles.get(name) != "evaluator")
  labels = {method.name: method.label for method in run.methods}
  judges = []
  for name in order:
    known = run.calibration[name]
    parts = [("all", known)]
    parts += [(labels.get(k, k), v) for k, v in known.get("methods", {}).items()]
    parts += [(f"difficulty: {k}", v) for k, v in known.get("bands", {}).items()]
    steps = []
    for step, title in _STEPS.items():
      agreed = known.get("agreement", {}).get(step, {})
      numbers = {
        key: f"{agreed[name]:.2f}"
        for key, name in (("agreement", "percent"), ("kappa", "kappa"), ("AC1", "ac1"))
        if agreed.get(name) is not None
      }
      margins = {k: rate(v) for k, v in agreed.get("by_margin", {}).items()}
      rows = [
        (of, _share(part, step, "sensitivity"), _share(part, step, "specificity"))
        for of, part in parts
        if step in part
      ]
      steps.append((title, numbers, margins, rows))
    role = roles.get(name)
    judges.append(Judge(f"{name} ({role})" if role else name, steps))
  return judges


def _share(known: dict[str, Any], step: str, name: str) -> Estimate:
  found = known[step].get(name)
  own = rate(found)
  if not found or found["value"] is None:
    return own
  return Estimate(own.text, f"{own.between}, {found['n']:,} labels")


def corrected_groups(run: Run) -> dict[str, Estimate]:
  """Group of questions -> how often it fails, without the judge's measured errors.

  Of the distinct questions of all methods, as the table of groups; empty where the
  judge was not measured.
  """
  known = run.calibration.get(run.model("evaluator", "the judge"))
  if not known or not len(run.evaluations):
    return {}
  rows = run.evaluations.drop_duplicates(["image_id", "question"])
  if not failures.knows_skills(rows):
    own = [[prefix] for prefix in rows["prefix"]]
    rows = rows.assign(skills=pd.Series(own, rows.index, dtype=object))
  rows = rows.assign(band=metrics.difficulty(run.evaluations.loc[rows.index]))
  try:
    found = metrics.corrected(rows, known, more_than=0)["skills"]
  except KeyError:  # a file that knows one step only
    return {}
  return {name: rate(ends) for name, ends in found.items()}


def alarms(run: Run) -> list[str]:
  """A sentence for each kind of alarm that a training had."""
  rows, sentences = run.measurements, []
  for method in run.methods:
    own = rows[rows["method"] == method.name] if len(rows) else rows
    for name, meaning in monitor.ALARMS.items():
      key = f"monitor/alarm_{name}"
      if key not in own:
        continue
      looks = own[own[key].notna()]
      raised = looks[looks[key] > 0]
      if not len(raised):
        continue
      first = raised.iloc[0]
      gap = first.get(f"monitor/{name}_gap", np.nan)
      how = ""
      if not pd.isna(gap):
        ends = [first[f"monitor/{name}_gap_{end}"] for end in ("low", "high")]
        how = (
          f", {gap:.0%} more than the other way round ({ends[0]:.0%} to {ends[1]:.0%})"
        )
      sentences.append(
        f"While {method.label} trained, from step {int(first['step'])} on: {meaning}"
        f"{how}; {len(raised)} of {len(looks)} looks."
      )
  return sentences
