"""What happened over the steps, from the rows and the measurements."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fmd_jax import metrics
from fmd_jax.report import charts
from fmd_jax.report.parts import Chart
from fmd_jax.report.reading import Run

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


def charts_of(run: Run) -> list[Chart]:
  """Reward as trained on; the rest as the evaluator judged, where it has."""
  reward, rates, judges = [], {"fdr": [], "qvr": [], "ld": []}, set()
  for method in run.methods:
    rows = run.evaluations
    if len(rows):
      rows = rows[(rows["method"] == method.name) & (rows["split"] == "train")]
    if not len(rows):
      rows = run.asked.get(method.name, pd.DataFrame(columns=["step"]))
    judges.add("verifier" if rows is run.asked.get(method.name) else "evaluator")
    frame = over_steps(rows)
    for key, lines in rates.items():
      lines.append(charts.Line(method.label, method.kind, frame["step"], frame[key]))
    asked = run.asked.get(method.name)
    if asked is not None:
      mean = asked.groupby(bins(asked["step"]))[["step", "reward"]].mean()
      line = charts.Line(method.label, method.kind, mean["step"], mean["reward"])
      reward.append(line)
  judge = "As judged by the " + " or the ".join(sorted(judges))
  planned = [
    ("Wrong of valid (FDR)", rates["fdr"], True, judge),
    ("Valid (QVR)", rates["qvr"], True, judge),
    ("Reward of a question", reward, False, "As judged by the verifier, eq. 5"),
    (
      "Prefix entropy",
      rates["ld"],
      False,
      "First two words of valid questions, / ln N",
    ),
  ]
  found = []
  for title, lines, share, note in planned:
    svg = charts.line_chart(title, lines, percent=share)
    if svg:
      found.append(Chart(title, svg, note))
  return found


def diagnostics(run: Run) -> list[Chart]:
  lines: dict[str, list[charts.Line]] = {}
  kinds = {method.name: method for method in run.methods}
  for key, name, frame in measured(run.measurements):
    method = kinds.get(name)
    if method:
      line = charts.Line(method.label, method.kind, frame["step"], frame["value"])
      lines.setdefault(key, []).append(line)
  return [Chart(key, charts.line_chart(key, own)) for key, own in lines.items()]
