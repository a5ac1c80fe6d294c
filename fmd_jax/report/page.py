"""The report's page: what stands where, and in which words."""

import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from fmd_jax import metrics
from fmd_jax.report import charts, curves, failures, planted
from fmd_jax.report.parts import Chart, Estimate, percent
from fmd_jax.report.reading import Method, Run, picture, read_run

SKILLS, EXAMPLES, ROWS = 6, 4, 40  # shown: worst groups, pictures of each, table rows
PROTOCOLS = {"during": "train", "after": "heldout"}  # of metrics.json -> split
_LONG = 600  # characters; a model that runs on does not push the rest off the page
# Escaping leaves these: they print nothing, or turn the text after them around.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e]")


class Row(NamedTuple):
  """One line of the comparison."""

  method: Method
  protocol: str
  cells: tuple[tuple[str, Estimate], ...]


def build(workdir: str | os.PathLike) -> str:
  """Writes `report/index.html` of a workdir: one file that needs no other.

  Args:
    workdir: of a run, finished or not; what is not there yet is left out.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: the folder holds no run.
  """
  run = read_run(workdir)
  target = run.folder / "report" / "index.html"
  target.parent.mkdir(exist_ok=True)
  temporary = target.with_suffix(".tmp")
  temporary.write_text(render(run), encoding="utf-8")
  temporary.replace(target)
  return str(target)


def render(run: Run) -> str:
  """The page as text. Whatever a model or a file said is escaped by jinja2."""
  templates = pathlib.Path(__file__).parent / "templates"
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(templates),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["said"] = _said
  return environment.get_template("report.html").render(
    style=Markup((templates / "style.css").read_text()),
    title=f"What {_model(run, 'answerer', 'the model')} gets wrong",
    subtitle=_subtitle(run),
    headline=_headline(run),
    comparison=_comparison(run),
    evaluator=_model(run, "evaluator", "an independent judge"),
    intervals=_intervals(run),
    methods=run.methods,
    curves=_curves(run),
    diagnostics=_diagnostics(run),
    planted=planted.parts(run),
    group_noun="skill" if failures.knows_skills(run.evaluations) else "beginning",
    groups=_worst_groups(run),
    table=_table(run),
    identity=_identity(run),
    config=json.dumps(run.config, indent=2, ensure_ascii=False) if run.config else "",
  )


def _said(text: Any) -> str:
  text = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", str(text))
  return text if len(text) <= _LONG else text[:_LONG] + " …"


def _text(value: Any) -> str:
  """Text of a cell that may be null; Parquet gives None or NaN."""
  return value if isinstance(value, str) else ""


def _model(run: Run, role: str, otherwise: str) -> str:
  model = run.manifest.get("models", {}).get(role, otherwise)
  return str(model.get("name", otherwise)) if isinstance(model, dict) else str(model)


def _subtitle(run: Run) -> str:
  started = str(run.manifest.get("started", ""))[:10]
  asked = sum(len(rows) for rows in run.asked.values())
  images = {image for rows in run.asked.values() for image in rows["image_id"]}
  parts = [started, ", ".join(m.label for m in run.methods)]
  if asked:
    parts.append(f"{asked:,} questions about {len(images):,} pictures while running")
  return " · ".join(part for part in parts if part)


def _rate(found: dict[str, Any] | None) -> Estimate:
  """A summarised rate, with its interval."""
  if not found or found["value"] is None:
    return Estimate("–")
  if found["low"] is None or found["high"] is None:
    return Estimate(percent(found["value"]))
  between = f"{found['low'] * 100:.1f}–{found['high'] * 100:.1f}"
  return Estimate(percent(found["value"]), between)


def _diversity(found: dict[str, Any] | None, key: str, digits: int) -> Estimate:
  """A diversity of all questions, and beside it the one at a common number."""
  if not found or found.get(key) is None:
    return Estimate("–")
  between = ""
  if found.get("rarefied") is not None:
    between = f"{found['rarefied']:.{digits}f} of {found['common_n']:,}"
  return Estimate(f"{found[key]:.{digits}f}", between)


def _summaries(run: Run):
  """(method, protocol, summary) of metrics.json, in the order of comparison."""
  for protocol in PROTOCOLS:
    for method in run.methods:
      summary = run.metrics.get("methods", {}).get(method.name, {}).get(protocol)
      if summary:
        yield method, protocol, summary


def _comparison(run: Run) -> list[Row]:
  rows = []
  for method, protocol, found in _summaries(run):
    missing = [percent(found[key]["value"]) for key in ("unparsed", "unscored")]
    skills = found.get("skills") or {}
    cells = {
      "Questions": Estimate(f"{found['questions']:,}", f"{found['images']:,} pictures"),
      "Valid (QVR)": _rate(found["qvr"]),
      "Wrong of valid (FDR)": _rate(found["fdr"]),
      "Failures found": Estimate(f"{found['failures']['distinct']:,}"),
      "Semantic diversity": _diversity(found.get("sd"), "vendi", 1),
      "Lexical diversity": _diversity(found.get("ld"), "ld", 3),
      "Skills": Estimate(str(skills.get("count", "–"))),
      "Unparsed, unscored": Estimate(", ".join(missing)),
    }
    rows.append(Row(method, protocol, tuple(cells.items())))
  return rows


def _intervals(run: Run) -> list[Chart]:
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


def _headline(run: Run) -> list[str]:
  """One sentence a method, and RL beside Zero Shot where both have been run."""
  rows = run.evaluations
  if not len(rows):
    return ["Nothing has been judged by the evaluator yet."]
  split = "heldout" if (rows["split"] == "heldout").any() else "train"
  rows = rows[rows["split"] == split]
  where = "on pictures it never saw" if split == "heldout" else "while it ran"
  sentences, own = [], {m.name: rows[rows["method"] == m.name] for m in run.methods}
  for method in run.methods:
    flags = metrics.flags(own[method.name])
    wrong, valid = int(flags["failure"].sum()), int(flags["valid"].sum())
    if valid:
      sentences.append(
        f"{method.label}: {wrong:,} of {valid:,} valid questions {where} were "
        f"answered wrongly ({percent(wrong / valid)})."
      )
  protocol = "after" if split == "heldout" else "during"
  for method in run.methods:
    beside = run.metrics.get("comparison", {}).get(method.name, {}).get(protocol, {})
    ratio = beside.get("fdr", {}).get("ratio", {})
    ends = [ratio.get(key) for key in ("value", "low", "high")]
    if None not in ends:
      sentences.append(
        f"The questions of {method.label} fail the model {ends[0]:.2f} times as often "
        f"as those of Zero Shot (95% interval {ends[1]:.2f} to {ends[2]:.2f})."
      )
  return sentences


def _curves(run: Run) -> list[Chart]:
  """Reward as trained on; the rest as the evaluator judged, where it has."""
  reward, rates, judges = [], {"fdr": [], "qvr": [], "ld": []}, set()
  for method in run.methods:
    rows = run.evaluations
    if len(rows):
      rows = rows[(rows["method"] == method.name) & (rows["split"] == "train")]
    if not len(rows):
      rows = run.asked.get(method.name, pd.DataFrame(columns=["step"]))
    judges.add("verifier" if rows is run.asked.get(method.name) else "evaluator")
    frame = curves.over_steps(rows)
    for key, lines in rates.items():
      lines.append(charts.Line(method.label, method.kind, frame["step"], frame[key]))
    asked = run.asked.get(method.name)
    if asked is not None:
      mean = asked.groupby(curves.bins(asked["step"]))[["step", "reward"]].mean()
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


def _diagnostics(run: Run) -> list[Chart]:
  lines: dict[str, list[charts.Line]] = {}
  kinds = {method.name: method for method in run.methods}
  for key, name, frame in curves.measured(run.measurements):
    method = kinds.get(name)
    if method:
      line = charts.Line(method.label, method.kind, frame["step"], frame["value"])
      lines.setdefault(key, []).append(line)
  return [Chart(key, charts.line_chart(key, own)) for key, own in lines.items()]


def _worst_groups(run: Run) -> list[dict[str, Any]]:
  if not len(run.evaluations):
    return []
  rows = failures.distinct_valid(run.evaluations)
  labels = {method.name: method.label for method in run.methods}
  groups, used, pictures = [], set(), {}
  for found in failures.ranked(rows).to_dict("records") if len(rows) else ():
    chosen = failures.examples(rows, found["skill"], EXAMPLES, used)
    if not len(chosen) or len(groups) == SKILLS:
      continue
    cards = []
    for row in chosen.to_dict("records"):
      image = row["image_id"]
      if image not in pictures:
        pictures[image] = picture(run.folder, image)
      truth = _text(row.get("truth"))
      card = {key: row[key] for key in ("image_id", "question", "answer")}
      # With the truth beside it, the judge's reasons only repeat it.
      card |= {"truth": truth, "picture": pictures[image]}
      card["rationale"] = "" if truth else _text(row.get("rationale"))
      card["method"] = labels.get(row["method"], row["method"])
      cards.append(card)
    ends = {"value": "estimate", "low": "estimate_low", "high": "estimate_high"}
    ends = {k: None if pd.isna(found[v]) else found[v] for k, v in ends.items()}
    groups.append(
      {**found, "name": found["skill"], "rate": _rate(ends), "cards": cards}
    )
  return groups


def _table(run: Run) -> list[tuple[str, list[tuple[Method, int, int]]]]:
  """(group, [(method, wrong, valid)]), the groups asked most first."""
  if not len(run.evaluations):
    return []
  found = failures.by_method(run.evaluations, [m.name for m in run.methods])
  asked = {group: sum(n for _, n in own.values()) for group, own in found.items()}
  order = sorted(found, key=lambda group: (-asked[group], group))[:ROWS]
  return [(g, [(m, *found[g].get(m.name, (0, 0))) for m in run.methods]) for g in order]


def _identity(run: Run) -> list[tuple[str, str]]:
  manifest = run.manifest
  dirty = " with local changes" if manifest.get("git_dirty") else ""
  found = [
    ("Run", manifest.get("run_id")),
    ("Started", manifest.get("started")),
    ("Command", " ".join(manifest.get("argv", []))),
    (
      "Commit",
      f"{manifest['git_commit']}{dirty}" if manifest.get("git_commit") else "",
    ),
    ("Resumed", f"{len(manifest['resumes'])} times" if manifest.get("resumes") else ""),
  ]
  for role in manifest.get("models", {}):
    found.append((role.capitalize(), _model(run, role, "")))
  seeds = manifest.get("seeds", {})
  found.append(("Seeds", ", ".join(f"{key} {value}" for key, value in seeds.items())))
  packages = manifest.get("packages", {})
  found.append(("Packages", ", ".join(f"{k} {v}" for k, v in packages.items())))
  return [(key, str(value)) for key, value in found if value]
