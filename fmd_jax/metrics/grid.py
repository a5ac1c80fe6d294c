"""A grid of runs as one table: every arm beside Zero Shot, seed by seed and on average.

evaluations/*.parquet and metrics.json of many workdirs -> table -> Markdown, CSV
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from fmd_jax.metrics.comparison import compare
from fmd_jax.metrics.diversity import prefix_entropy, rarefied, vendi
from fmd_jax.metrics.planted import BUDGET, area_ratio
from fmd_jax.metrics.rates import flags, rates

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
  "sd": ("SD", 2),
  "sd_ratio": ("SD / Zero Shot", 2),
  "ld": ("LD", 3),
  "ld_ratio": ("LD / Zero Shot", 2),
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
    rows: the evaluator's verdicts: image_id, status, question, valid, correct.
    planted: what `planted_truth` says of it; {} when unknown.
  """

  arm: str
  seed: int
  method: str
  protocol: str
  rows: pd.DataFrame
  planted: Mapping[str, Any]


def read(workdir: pathlib.Path, arm: str, seed: int) -> list[Asked]:
  """Reads what a finished run asked, Zero Shot first.

  Args:
    workdir: with metrics.json and evaluations.
    arm: the name that the table gives it.
    seed: of the run.
  """
  known = json.loads((workdir / "metrics.json").read_text())["methods"]
  out = []
  for method in sorted(known, key=lambda name: (name != BASELINE, name)):
    for protocol, suffix in PROTOCOLS.items():
      path = workdir / "evaluations" / f"{method}{suffix}.parquet"
      if path.is_file():
        rows = pd.read_parquet(path, columns=_COLUMNS)
        planted = known[method].get(protocol, {}).get("planted") or {}
        out.append(Asked(arm, seed, method, protocol, rows, planted))
  return out


def make_table(
  runs: Sequence[Asked],
  embed: Callable[[list[str]], Float[np.ndarray, "N E"]],
  paper: Mapping[str, Mapping[str, float]] | None = None,
  reference: str | None = None,
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

  Returns:
    Plain JSON. "common_n": protocol -> that number of questions, or None. "rows": one
    for each run: row (its name in the table), arm, method, seed, protocol, questions,
    valid, and each of `METRICS` as value, low, high; None is what cannot be said.
    "means": the same over the seeds of a row, with the list "seeds"; low and high
    enclose the intervals of all seeds, or the values where a metric has no interval.
    "paper": as given.
  """
  names = _names(runs)
  texts = sorted(set().union(*map(_valid, runs)))
  vectors = dict(zip(texts, embed(texts) if texts else ()))
  table: dict[str, Any] = {"common_n": {}, "rows": [], "means": []}
  for protocol in PROTOCOLS:
    own = [run for run in runs if run.protocol == protocol]
    diversities, table["common_n"][protocol] = _diversities(own, vectors)
    rows = [
      {
        "row": names[run.arm, run.method],
        "arm": run.arm,
        "method": run.method,
        "seed": run.seed,
        "protocol": protocol,
        "questions": len(run.rows),
        **_numbers(own, diversities, place, reference),
      }
      for place, run in enumerate(own)
    ]
    table["rows"] += rows
    for name in dict.fromkeys(row["row"] for row in rows):
      table["means"].append(_mean([row for row in rows if row["row"] == name]))
  return table | {"paper": {row: dict(values) for row, values in (paper or {}).items()}}


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

    measured = {
      name: rarefied(measure, len(questions), common, seed=run.seed)
      for name, measure in (("sd", sd), ("ld", ld))
    }
    out.append({"valid": len(questions), **measured})
  return out, common or None


def _numbers(runs, diversities, place: int, reference: str | None) -> dict[str, Any]:
  """The numbers of one run, from "valid" on; `runs` are those of its protocol."""
  run, own = runs[place], diversities[place]
  found = rates(run.rows, seed=run.seed)
  cells = {name: _cell(*found[name][:3]) for name in ("qvr", "fdr")}
  cells |= {name: _cell(own[name]) for name in ("sd", "ld")}
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


def long(table: Mapping[str, Any]) -> pd.DataFrame:
  """The means as row, metric, protocol, mean, low, high, seeds (how many), paper.

  What is not known is left out, or NaN. The paper does not say which protocol its
  numbers are of: they stand beside both.
  """
  lines = []
  for mean in table["means"]:
    for name in METRICS:
      cell = mean[name]
      if cell["value"] is not None:
        paper = table["paper"].get(mean["row"], {}).get(name)
        ends = (cell["value"], cell["low"], cell["high"], cell["seeds"], paper)
        lines.append((mean["row"], name, mean["protocol"], *ends))
  names = ["row", "metric", "protocol", "mean", "low", "high", "seeds", "paper"]
  return pd.DataFrame(lines, columns=names).astype({"paper": float})


def markdown(table: Mapping[str, Any]) -> str:
  """The table as text: for each protocol the means, the paper's numbers, the seeds."""
  parts = []
  for protocol, common in table["common_n"].items():
    means = [row for row in table["means"] if row["protocol"] == protocol]
    if not means:
      continue
    size = "" if common is None else f" (SD and LD of {common:,} valid questions)"
    shown = [n for n in METRICS if any(row[n]["value"] is not None for row in means)]
    lines = []
    for row in means:
      seeds = ", ".join(map(str, row["seeds"]))
      lines.append([row["row"], seeds, *(_text(row[n], METRICS[n][1]) for n in shown)])
      if row["row"] in table["paper"]:
        cells = [_cell(table["paper"][row["row"]].get(n)) for n in shown]
        texts = [_text(cell, METRICS[n][1]) for cell, n in zip(cells, shown)]
        lines.append([f"{row['row']}, the paper", "", *texts])
    parts += [f"## {protocol}, mean over seeds{size}", "", _pipes(shown, lines), ""]
    lines = [
      [row["row"], str(row["seed"]), *(_text(row[n], METRICS[n][1]) for n in shown)]
      for row in table["rows"]
      if row["protocol"] == protocol
    ]
    parts += [f"## {protocol}, seed by seed", "", _pipes(shown, lines), ""]
  return "\n".join(parts)


def _text(cell: Mapping[str, float | None], digits: int) -> str:
  if cell["value"] is None:
    return ""
  text = f"{cell['value']:.{digits}f}"
  if cell["low"] is None and cell["high"] is None:
    return text
  low, high = (
    infinite if cell[end] is None else f"{cell[end]:.{digits}f}"
    for end, infinite in (("low", "−∞"), ("high", "∞"))
  )
  return f"{text} [{low}, {high}]"


def _pipes(shown: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  head = ["row", "seed", *(METRICS[name][0] for name in shown)]
  return "\n".join(f"| {' | '.join(x)} |" for x in (head, ["---"] * len(head), *lines))
