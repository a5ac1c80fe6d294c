"""The table of a grid as text: Markdown, CSV (one number a line) and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fmd_jax.metrics.grid import METRICS, PROTOCOLS

Cell = Mapping[str, float | None]


def long(table: Mapping[str, Any]) -> pd.DataFrame:
  """The means as row, metric, protocol, mean, low, high, seeds (how many), paper.

  What is not known is left out, or NaN. The paper does not say which protocol its
  numbers are of: they stand beside both. The ratios of "versus" are lines of the metric
  `fdr_ratio:<other row>` and so on.
  """
  lines = []
  for mean in table["means"]:
    for name in METRICS:
      cell = mean[name]
      if cell["value"] is not None:
        paper = table["paper"].get(mean["row"], {}).get(name)
        ends = (cell["value"], cell["low"], cell["high"], cell["seeds"], paper)
        lines.append((mean["row"], name, mean["protocol"], *ends))
  for pair in table["versus"]:
    for name in ("fdr_ratio", "ld_ratio", "qvr_points"):
      cell = pair[name]
      if cell["value"] is not None:
        ends = (cell["value"], cell["low"], cell["high"], len(pair["seeds"]), None)
        metric = f"{name}:{pair['other']}"
        lines.append((pair["row"], metric, pair["protocol"], *ends))
  names = ["row", "metric", "protocol", "mean", "low", "high", "seeds", "paper"]
  return pd.DataFrame(lines, columns=names).astype({"paper": float})


def markdown(table: Mapping[str, Any]) -> str:
  """For each protocol the means, the paper's numbers, the seeds, and RL's lead."""
  parts = [table["about"], ""] if table["about"] else []
  for protocol, common in table["common_n"].items():
    means = [row for row in table["means"] if row["protocol"] == protocol]
    if not means:
      continue
    size = (
      "" if common is None else f" (SD, LD, # Skills of {common:,} valid questions)"
    )
    shown = _shown(table, means)
    lines = []
    for row in means:
      seeds = ", ".join(map(str, row["seeds"]))
      lines.append([row["row"], seeds, *(_text(row[n], METRICS[n][1]) for n in shown)])
      if row["row"] in table["paper"]:
        lines.append([f"{row['row']}, the paper", "", *_printed(table, row, shown)])
    parts += [f"## {protocol}, mean over seeds{size}", "", _pipes(shown, lines), ""]
    lines = [
      [row["row"], str(row["seed"]), *(_text(row[n], METRICS[n][1]) for n in shown)]
      for row in table["rows"]
      if row["protocol"] == protocol
    ]
    parts += [f"## {protocol}, seed by seed", "", _pipes(shown, lines), ""]
    parts += _versus([pair for pair in table["versus"] if pair["protocol"] == protocol])
  return "\n".join(parts)


def latex(table: Mapping[str, Any]) -> str:
  """The means as `tabular`s that need `booktabs`, one for each protocol."""
  parts = [f"% {line}" for line in table["about"].splitlines()]
  for protocol in PROTOCOLS:
    means = [row for row in table["means"] if row["protocol"] == protocol]
    if not means:
      continue
    shown = _shown(table, means)
    parts += [
      f"% {protocol}",
      rf"\begin{{tabular}}{{l{'r' * len(shown)}}}",
      r"\toprule",
      _cells(["", *(METRICS[name][0] for name in shown)]),
      r"\midrule",
    ]
    for row in means:
      parts.append(
        _cells([row["row"], *(_short(row[n], METRICS[n][1]) for n in shown)])
      )
      if row["row"] in table["paper"]:
        parts.append(_cells([f"{row['row']}, the paper", *_printed(table, row, shown)]))
    parts += [r"\bottomrule", r"\end{tabular}", ""]
  return "\n".join(parts)


def _shown(table: Mapping[str, Any], means: Sequence[Mapping[str, Any]]) -> list[str]:
  """The metrics that a table has columns for: those wanted of those that are known."""
  wanted = table["columns"] or METRICS
  return [n for n in wanted if any(row[n]["value"] is not None for row in means)]


def _printed(table, row, shown: Sequence[str]) -> list[str]:
  paper = table["paper"][row["row"]]
  return ["" if n not in paper else f"{paper[n]:.{METRICS[n][1]}f}" for n in shown]


def _versus(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
  if not pairs:
    return []
  head = ["row / other", "FDR ratio, each seed", "LD ratio", "QVR, points"]
  lines = []
  for pair in pairs:
    seeds = "; ".join(_text(cell, 2) for cell in pair["each"])
    ends = (_text(pair["ld_ratio"], 2), _text(pair["qvr_points"], 1))
    lines.append([f"{pair['row']} / {pair['other']}", seeds, *ends])
  rows = (head, ["---"] * len(head), *lines)
  text = "\n".join(f"| {' | '.join(x)} |" for x in rows)
  return [f"## {pairs[0]['protocol']}, against the other methods", "", text, ""]


def _text(cell: Cell, digits: int) -> str:
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


def _short(cell: Cell, digits: int) -> str:
  return "" if cell["value"] is None else f"{cell['value']:.{digits}f}"


def _cells(texts: Sequence[str]) -> str:
  escaped = [
    text.replace("_", r"\_").replace("%", r"\%").replace("#", r"\#").replace("−", "$-$")
    for text in texts
  ]
  return f"{' & '.join(escaped)} \\\\"


def _pipes(shown: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  head = ["row", "seed", *(METRICS[name][0] for name in shown)]
  return "\n".join(f"| {' | '.join(x)} |" for x in (head, ["---"] * len(head), *lines))
