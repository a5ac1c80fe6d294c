"""The numbers of a run side by side, and what they say in words."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from fmd_jax import metrics
from fmd_jax.report import charts
from fmd_jax.report.parts import Chart, Estimate, percent, rate
from fmd_jax.report.reading import Method, Run

PROTOCOLS = {"during": "train", "after": "heldout"}  # of metrics.json -> split


class Row(NamedTuple):
  """One line of the comparison."""

  method: Method
  protocol: str
  cells: tuple[tuple[str, Estimate], ...]


def headline(run: Run) -> list[str]:
  """One sentence a method, and RL beside Zero Shot where both have been run."""
  rows = run.evaluations
  if not len(rows):
    return ["Nothing has been judged by the evaluator yet."]
  split = "heldout" if (rows["split"] == "heldout").any() else "train"
  rows = rows[rows["split"] == split]
  where = "on pictures it never saw" if split == "heldout" else "while it ran"
  protocol = "after" if split == "heldout" else "during"
  sentences, own = [], {m.name: rows[rows["method"] == m.name] for m in run.methods}
  for method in run.methods:
    flags = metrics.flags(own[method.name])
    wrong, valid = int(flags["failure"].sum()), int(flags["valid"].sum())
    if valid:
      sentences.append(
        f"{method.label}: {wrong:,} of {valid:,} valid questions {where} were "
        f"answered wrongly ({percent(wrong / valid)}"
        f"{_corrected_text(run, method, protocol)})."
      )
  for method in run.methods:
    beside = run.metrics.get("comparison", {}).get(method.name, {}).get(protocol, {})
    ratio = beside.get("fdr", {}).get("ratio", {})
    ends = [ratio.get(key) for key in ("value", "low", "high")]
    if None not in ends:
      sentences.append(
        f"The questions of {method.label} fail the model {ends[0]:.2f} times as often "
        f"as those of Zero Shot (95% interval {ends[1]:.2f} to {ends[2]:.2f}"
        f"{_ratio_text(beside.get('corrected_fdr_ratio'))})."
      )
  return sentences


def _corrected_text(run: Run, method: Method, protocol: str) -> str:
  """The FDR without the judge's errors, to stand behind the raw one; "" if unknown."""
  summary = run.metrics.get("methods", {}).get(method.name, {}).get(protocol, {})
  found = rate((summary.get("corrected") or {}).get("fdr"))
  if not found.between:
    return ""
  return f"; {found.text}, {found.between}, without the judge's errors"


def _ratio_text(found: dict[str, Any] | None) -> str:
  if not found or None in (found["value"], found["low"], found["high"]):
    return ""
  return (
    f"; {found['value']:.2f}, {found['low']:.2f} to {found['high']:.2f}, without the "
    "judge's errors"
  )


def tiles(run: Run) -> list[tuple[Estimate, str, bool]]:
  """The few numbers to see first: (number, what it is, whether a judge's rate)."""
  summaries, rates, planted = list(_summaries(run)), [], []
  for method, protocol, found in summaries:
    if protocol == summaries[-1][1] and found["fdr"]["value"] is not None:
      label = f"of the valid questions of {method.label} answered wrongly"
      label += _corrected_text(run, method, protocol)
      rates.append((rate(found["fdr"]), label, True))
    known = found.get("planted")
    if protocol == summaries[0][1] and known and known["planted"]:
      number = Estimate(f"{len(known['found'])} of {len(known['planted'])}")
      planted.append((number, f"planted blind spots found by {method.label}", False))
  return rates + planted


def calibration(run: Run) -> dict[str, Any]:
  """How far the judge's verdicts can be trusted.

  Returns:
    "known": whether it was compared with people; "text": one sentence, or more.
  """
  judge = run.model("evaluator", "the judge")
  known = run.calibration.get(judge, {})
  told = [
    f"{criterion}: {name} {rate(found).text} ({rate(found).between}, "
    f"{found['n']:,} questions)"
    for criterion in ("valid", "correct")
    for name in ("sensitivity", "specificity")
    if (found := known.get(criterion, {}).get(name))
  ]
  if told:
    return {"known": True, "text": f"{judge} beside people: {'; '.join(told)}."}
  text = (
    "Uncalibrated: no sample of the verdicts was checked by people, so the rates carry "
    f"whatever errors {judge} makes."
  )
  if judge.startswith("oracle"):
    text += " This judge reads the scene from which the picture was drawn."
  return {"known": False, "text": text}


def comparison(run: Run) -> list[Row]:
  rows = []
  for method, protocol, found in _summaries(run):
    missing = [percent(found[key]["value"]) for key in ("unparsed", "unscored")]
    skills = found.get("skills") or {}
    cells = {
      "Questions": Estimate(f"{found['questions']:,}", f"{found['images']:,} pictures"),
      "Valid (QVR)": rate(found["qvr"]),
      **_without_errors(run, found, "qvr"),
      "Wrong of valid (FDR)": rate(found["fdr"]),
      **_without_errors(run, found, "fdr"),
      "Failures found": Estimate(f"{found['failures']['distinct']:,}"),
      "Semantic diversity": _diversity(found.get("sd"), "vendi", 1),
      "Lexical diversity": _diversity(found.get("ld"), "ld", 3),
      "Skills": Estimate(str(skills.get("count", "–"))),
      "Unparsed, unscored": Estimate(", ".join(missing)),
    }
    rows.append(Row(method, protocol, tuple(cells.items())))
  return rows


def _without_errors(run: Run, found: dict[str, Any], key: str) -> dict[str, Estimate]:
  """A rate without the judge's measured errors, where any row of the table has it."""
  if not any(of.get("corrected") for _, _, of in _summaries(run)):
    return {}
  corrected = found.get("corrected") or {key: None, "reason": "uncalibrated"}
  value = rate(corrected[key])
  if value.text == "–":
    value = Estimate("–", corrected.get("reason") or "")
  return {f"{key.upper()}, the judge's errors taken out": value}


def intervals(run: Run) -> list[Chart]:
  found = []
  for key, title in (("fdr", "Wrong of valid (FDR)"), ("qvr", "Valid (QVR)")):
    rows = [
      charts.Interval(f"{method.label}, {protocol}", method.kind, **ends)
      for method, protocol, summary in _summaries(run)
      if None
      not in (ends := {k: summary[key][k] for k in ("value", "low", "high")}).values()
    ]
    svg = charts.interval_chart(title, rows)
    if svg:
      found.append(Chart(title, svg))
  return found


def _summaries(run: Run) -> Iterator[tuple[Method, str, dict[str, Any]]]:
  """(method, protocol, summary) of metrics.json, in the order of comparison."""
  for protocol in PROTOCOLS:
    for method in run.methods:
      summary = run.metrics.get("methods", {}).get(method.name, {}).get(protocol)
      if summary:
        yield method, protocol, summary


def _diversity(found: dict[str, Any] | None, key: str, digits: int) -> Estimate:
  """A diversity of all questions, and beside it the one at a common number."""
  if not found or found.get(key) is None:
    return Estimate("–")
  between = ""
  if found.get("rarefied") is not None:
    between = f"{found['rarefied']:.{digits}f} of {found['common_n']:,}"
  return Estimate(f"{found[key]:.{digits}f}", between)
