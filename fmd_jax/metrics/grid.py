"""A grid of runs as one table: every arm beside Zero Shot, seed by seed and on average.

evaluations/*.parquet and metrics.json of many workdirs -> table; `layout` shows it
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Float

from fmd_jax.metrics import versus
from fmd_jax.metrics.comparison import compare
from fmd_jax.metrics.diversity import prefix_entropy, rarefied, vendi
from fmd_jax.metrics.planted import BUDGET, area_ratio
from fmd_jax.metrics.rates import distinct_failures, flags, rates
from fmd_jax.metrics.skills import mean_skill_rate, n_skills, skill_coverage
from fmd_jax.metrics.versus import by_skill
from fmd_jax.records.measurements import totals
from fmd_jax.records.reader import read_parquet

BASELINE = "zero_shot"
# protocol -> what the file of a method's evaluations ends with.
PROTOCOLS = {"during": "", "after": "_heldout"}
# metric -> its heading and digits.
METRICS = {
  "qvr": ("QVR", 3),
  "qvr_points": ("QVR − Zero Shot, points", 1),
  "qvr_points_reference": ("QVR − reference, points", 1),
  "fdr": ("FDR", 3),
  "fdr_ratio": ("FDR / Zero Shot", 2),
  "skill_fdr": ("FDR per skill", 3),  # mean over those of more than 100 questions
  "failures": ("distinct failures", 0),
  "failures_per_1000": ("per 1000 verifier calls", 1),
  "sd": ("SD", 2),
  "sd_ratio": ("SD / Zero Shot", 2),
  "ld": ("LD", 3),
  "ld_ratio": ("LD / Zero Shot", 2),
  "skills": ("# Skills", 1),
  "skill_coverage": ("skills a question", 2),
  "exclusive_skills": ("exclusive skills", 1),
  "exclusive_fdr": ("their FDR", 3),
  # Of the first 6000 questions, or of all where fewer were asked; see `planted`.
  "recall": ("planted: recall", 2),
  "precision": ("precision", 2),
  "recall_explained": ("recall, explained", 2),
  "precision_explained": ("precision, explained", 2),
  "area": ("area", 2),
  "area_ratio": ("area / Zero Shot", 2),
}
_COLUMNS = ["image_id", "status", "question", "valid", "correct"]


class Asked(NamedTuple):
  """What one method of one run asked under one protocol.

  Attributes:
    arm: the name of the run's config.
    seed: of the run.
    method: e.g. "grpo".
    protocol: "during" or "after".
    rows: the evaluator's verdicts: image_id, status, question, valid, correct, and
      skills where they are known.
    planted: what `planted_truth` says of it; {} when unknown.
    calls: requests to the verifier; None where nobody counted them.
  """

  arm: str
  seed: int
  method: str
  protocol: str
  rows: pd.DataFrame
  planted: Mapping[str, Any]
  calls: int | None = None


def read(workdir: epath.PathLike, arm: str, seed: int) -> list[Asked]:
  """Reads what a finished run asked, Zero Shot first.

  Args:
    workdir: with metrics.json and evaluations.
    arm: the name that the table gives it.
    seed: of the run.
  """
  workdir = epath.Path(workdir)
  known = json.loads((workdir / "metrics.json").read_text())["methods"]
  out = []
  for method in sorted(known, key=lambda name: (name != BASELINE, name)):
    for protocol, suffix in PROTOCOLS.items():
      path = workdir / "evaluations" / f"{method}{suffix}.parquet"
      if path.is_file():
        rows = read_parquet(path)
        rows = rows[[*_COLUMNS, *({"skills"} & set(rows))]]
        planted = known[method].get(protocol, {}).get("planted") or {}
        calls = _verifier_calls(workdir, method) if protocol == "during" else None
        out.append(Asked(arm, seed, method, protocol, rows, planted, calls))
  return out


def _verifier_calls(workdir: epath.Path, method: str) -> int | None:
  return totals(workdir, "budget").get(method, {}).get("verifier_calls")


def make_table(
  runs: Sequence[Asked],
  embed: Callable[[list[str]], Float[np.ndarray, "N E"]],
  paper: Mapping[str, Mapping[str, float]] | None = None,
  reference: str | None = None,
  group: Collection[str] = (),
  columns: Sequence[str] = (),
  about: str = "",
) -> dict[str, Any]:
  """Measures all runs of a grid alike.

  SD and LD are those of equally many valid questions: within a protocol, of as many
  as the run with the fewest (but any) has. Ratios and differences are against Zero
  Shot of the same seed, the arm's own where it has one. A run's intervals are
  clustered by image.

  Args:
    runs: in the order in which the table shows them.
    embed: distinct texts to vectors [N, E]; called once, if there is a valid question.
    paper: row -> metric -> the paper's number, in the units of this table.
    reference: the arm that an ablation takes a part away from; the others' QVR is
      compared with that of its run with the same method and seed.
    group: rows that are compared with all others, seed by seed ("versus"); exclusive
      skills are those that one side has and the other has not.
    columns: the metrics that are shown; all that are known when empty.
    about: what the numbers are of, for the reader.

  Returns:
    Plain JSON. "common_n": protocol -> that number of questions, or None. "rows": one
    for each run: row (its name in the table), arm, method, seed, protocol, questions,
    valid, and each of `METRICS` as value, low, high; None is what cannot be said.
    "means": the same over the seeds of a row, with the list "seeds"; low and high
    enclose the intervals of all seeds, or the values where a metric has no interval.
    "versus": for each row of `group` and each other row: row, other, protocol, seeds,
    "each" (the FDR ratio of every seed) and over the seeds fdr_ratio, ld_ratio and
    qvr_points. "paper", "columns", "about": as given.
  """
  names = _names(runs)
  texts = sorted(set().union(*map(_valid, runs)))
  vectors = dict(zip(texts, embed(texts) if texts else ()))
  table: dict[str, Any] = {"common_n": {}, "rows": [], "means": [], "versus": []}
  for protocol in PROTOCOLS:
    own = [run for run in runs if run.protocol == protocol]
    diversities, table["common_n"][protocol] = _diversities(own, vectors)
    titles = [names[run.arm, run.method] for run in own]
    rows = [
      {
        "row": names[run.arm, run.method],
        "arm": run.arm,
        "method": run.method,
        "seed": run.seed,
        "protocol": protocol,
        "questions": len(run.rows),
        **_numbers(own, diversities, place, reference),
        **_exclusive(own, titles, place, group),
      }
      for place, run in enumerate(own)
    ]
    table["rows"] += rows
    for name in dict.fromkeys(row["row"] for row in rows):
      table["means"].append(_mean([row for row in rows if row["row"] == name]))
    for pair in versus.pairs(rows, group, _compare_two(own, rows)):
      found = pair.pop("found")
      merged = {name: _enclose([one[name] for one in found]) for name in found[0]}
      each = [one["fdr_ratio"] for one in found]
      table["versus"].append(pair | {"each": each, **merged})
  printed = {row: dict(values) for row, values in (paper or {}).items()}
  return table | {"paper": printed, "columns": list(columns), "about": about}


def _compare_two(runs: Sequence[Asked], rows: Sequence[Mapping[str, Any]]):
  """Compares two rows of a protocol; `rows` are those of `runs`, in their order."""
  places = {id(row): place for place, row in enumerate(rows)}

  def two(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    run, base = runs[places[id(row)]], runs[places[id(other)]]
    lds = row["ld"]["value"], other["ld"]["value"]
    ratio = None if None in lds or not lds[1] else lds[0] / lds[1]
    return {
      "fdr_ratio": compare(run.rows, base.rows, "fdr", seed=run.seed)["ratio"],
      "ld_ratio": _cell(ratio),
      "qvr_points": _qvr_points(run, base.rows),
    }

  return two


def _names(runs: Sequence[Asked]) -> dict[tuple[str, str], str]:
  """(arm, method) -> row: the shortest name that tells it from the others."""
  pairs = list(dict.fromkeys((run.arm, run.method) for run in runs))
  baselines = [arm for arm, method in pairs if method == BASELINE]
  trained = [arm for arm, method in pairs if method != BASELINE]
  names = {}
  for arm, method in pairs:
    if method == BASELINE and len(baselines) == 1:
      names[arm, method] = BASELINE
    elif method != BASELINE and trained.count(arm) == 1:
      names[arm, method] = arm
    else:
      names[arm, method] = f"{arm}/{method}"
  return names


def _valid(run: Asked) -> list[str]:
  return run.rows.loc[flags(run.rows)["valid"], "question"].tolist()


def _exclusive(runs, titles, place: int, group: Collection[str]) -> dict[str, Any]:
  """Exclusive skills of a run and their failure rate, among those of its seed."""
  run, title = runs[place], titles[place]
  others = [
    by_skill(other.rows)
    for other, name in zip(runs, titles)
    if other.seed == run.seed and name in versus.rivals(title, titles, group)
  ]
  if not group or not others or "skills" not in run.rows:
    return {}
  own = versus.exclusive(by_skill(run.rows), others)
  rate = (own["failures"] / own["n"]).mean() if len(own) else None
  return {"exclusive_skills": _cell(float(len(own))), "exclusive_fdr": _cell(rate)}


def _diversities(runs, vectors) -> tuple[list[dict[str, Any]], int | None]:
  """SD and LD of each run at one N, their number of valid questions, and this N."""
  valid = [_valid(run) for run in runs]
  common = min((len(questions) for questions in valid if questions), default=0)
  out = []
  for run, questions in zip(runs, valid):

    def sd(at, questions=questions):
      return vendi(np.stack([vectors[questions[i]] for i in at]))

    def ld(at, questions=questions):
      return prefix_entropy([questions[i] for i in at])["ld"] or 0.0

    measures = {"sd": sd, "ld": ld}
    if "skills" in run.rows:
      own = run.rows.loc[flags(run.rows)["valid"], "skills"].tolist()
      measures["skills"] = lambda at, own=own: float(
        n_skills([_of(own[i]) for i in at])
      )
    measured = {
      name: rarefied(measure, len(questions), common, seed=run.seed)
      for name, measure in measures.items()
    }
    out.append({"valid": len(questions), **measured})
  return out, common or None


def _of(skills: Any) -> Sequence[str]:
  """The skills of a question, none where they are not known."""
  return () if skills is None or isinstance(skills, float) else skills


def _numbers(runs, diversities, place: int, reference: str | None) -> dict[str, Any]:
  """The numbers of one run, from "valid" on; `runs` are those of its protocol."""
  run, own = runs[place], diversities[place]
  found = rates(run.rows, seed=run.seed)
  cells = {name: _cell(*found[name][:3]) for name in ("qvr", "fdr")}
  cells |= {name: _cell(own[name]) for name in ("sd", "ld", "skills") if name in own}
  cells["failures"] = _cell(float(distinct_failures(run.rows)))
  if run.calls:
    per_call = 1000 * cells["failures"]["value"] / run.calls
    cells["failures_per_1000"] = _cell(per_call)
  if "skills" in run.rows:
    known = run.rows.loc[flags(run.rows)["valid"], "skills"].dropna()
    cells["skill_coverage"] = _cell(skill_coverage(known.tolist()))
    rate = mean_skill_rate(run.rows, seed=run.seed)
    cells["skill_fdr"] = _cell(*(rate[end] for end in _ENDS))
  base = _baseline(runs, run)
  if base is not None:
    zero_shot = runs[base].rows
    fdr = compare(run.rows, zero_shot, "fdr", seed=run.seed)["ratio"]
    cells |= {"qvr_points": _qvr_points(run, zero_shot), "fdr_ratio": fdr}
    for name in ("sd", "ld"):
      a, b = own[name], diversities[base][name]
      cells[f"{name}_ratio"] = _cell(None if a is None or not b else a / b)
    cells["area_ratio"] = _cell(area_ratio(run.planted, runs[base].planted))
  for other in runs if run.arm != reference else ():
    if (other.arm, other.method, other.seed) == (reference, run.method, run.seed):
      cells["qvr_points_reference"] = _qvr_points(run, other.rows)
  cells |= _planted(run.planted)
  nothing = _cell(None)
  return {"valid": own["valid"], **{name: cells.get(name, nothing) for name in METRICS}}


def _qvr_points(run: Asked, other: pd.DataFrame) -> dict[str, float | None]:
  qvr = compare(run.rows, other, "qvr", seed=run.seed)["difference"]
  return _cell(*(None if qvr[end] is None else 100 * qvr[end] for end in _ENDS))


def _planted(known: Mapping[str, Any]) -> dict[str, Any]:
  """Recall and precision within the budget, and the area, from what a run knows."""
  cells = {"area": _cell(known.get("area"))}
  for suffix, part in (("", known), ("_explained", known.get("explained") or {})):
    part = part.get(f"at_{BUDGET}") or part
    for name in ("recall", "precision"):
      cells[f"{name}{suffix}"] = _cell(part.get(name))
  return cells


def _baseline(runs: Sequence[Asked], run: Asked) -> int | None:
  """The place of the Zero Shot that a run is measured against, if there is one."""
  if run.method == BASELINE:
    return None
  places = [
    i
    for i, other in enumerate(runs)
    if (other.method, other.seed) == (BASELINE, run.seed)
  ]
  own = [i for i in places if runs[i].arm == run.arm]
  return (own or places or [None])[0]


_ENDS = ("value", "low", "high")


def _cell(value, low=None, high=None) -> dict[str, float | None]:
  return dict(zip(_ENDS, (value, low, high)))


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """One row over its seeds; a seed without a number is left out of that metric."""
  first = rows[0]
  out = {name: first[name] for name in ("row", "arm", "method", "protocol")}
  out["seeds"] = [row["seed"] for row in rows]
  for name in METRICS:
    cells = [row[name] for row in rows if row[name]["value"] is not None]
    out[name] = _enclose(cells) | {"seeds": len(cells)}
  return out


def _enclose(cells: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
  if not cells:
    return _cell(None)
  values = [cell["value"] for cell in cells]
  mean = float(np.mean(values))
  if all(cell["low"] is None and cell["high"] is None for cell in cells):
    # No intervals: the range of the seeds, if there are several.
    return _cell(mean, min(values), max(values)) if len(values) > 1 else _cell(mean)
  lows, highs = ([cell[end] for cell in cells] for end in ("low", "high"))
  # None is an end that cannot be said, or is unbounded: so is the whole's.
  return _cell(
    mean,
    None if None in lows else min(lows),
    None if None in highs else max(highs),
  )
