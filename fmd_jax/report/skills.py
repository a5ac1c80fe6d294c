"""How often each skill fails: the sortable table, and the tree above it."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fmd_jax import metrics
from fmd_jax.report import failures, judges
from fmd_jax.report.parts import Estimate, percent, rate, said, text_of
from fmd_jax.report.reading import Method, Run

_PHRASES = 5  # of a skill that are shown
_MORE_THAN = 20  # questions of a cell


class Row(NamedTuple):
  """One skill.

  Attributes:
    name, meta_skill: of the skill; no meta-skill where there is no taxonomy.
    n, failures: distinct valid questions, and those answered wrongly.
    rate: failures / n of all pictures, with its interval.
    ends: the same as three numbers, for the bar.
    place: by the ranking half of the pictures.
    other: the rate on the other half, with its interval.
    other_value: the same as a number; -1 where there is none.
    other_n: the questions of the other half.
    corrected: the rate without the judge's errors; None where it was not measured.
    methods: (method, failures, valid) of each method.
  """

  name: str
  meta_skill: str
  n: int
  failures: int
  rate: Estimate
  ends: tuple[float, float, float]
  place: int
  other: Estimate
  other_value: float
  other_n: int
  corrected: Estimate | None
  methods: list[tuple[Method, int, int]]


class Node(NamedTuple):
  """One branch or leaf of the tree; `skill` is what the browser filters by."""

  name: str
  skill: str
  note: str
  rate: Estimate
  ends: tuple[float, float, float] | None
  n: int
  children: list["Node"]


def table(run: Run, rows: pd.DataFrame) -> list[Row]:
  """Every group of questions, worst first.

  Args:
    run: of which the rows are.
    rows: from `failures.distinct_valid`.
  """
  if not len(rows):
    return []
  by_method = failures.by_method(run.evaluations, [m.name for m in run.methods])
  meta_skills = _meta_skills(run)
  corrected = judges.corrected_groups(run)
  return [
    Row(
      found["skill"],
      meta_skills.get(found["skill"], ""),
      found["n"],
      found["failures"],
      rate(_ends(found, "fdr", "low", "high")),
      (found["fdr"], found["low"], found["high"]),
      found["rank"],
      rate(_ends(found, "estimate", "estimate_low", "estimate_high")),
      -1.0 if math.isnan(found["estimate"]) else found["estimate"],
      found["estimate_n"],
      corrected.get(found["skill"], Estimate("–")) if corrected else None,
      [
        (method, *by_method.get(found["skill"], {}).get(method.name, (0, 0)))
        for method in run.methods
      ],
    )
    for found in failures.ranked(rows).to_dict("records")
  ]


def tree(run: Run, rows: pd.DataFrame) -> list[Node]:
  """Meta-skills over skills; without a taxonomy, skills over the testbed's cells.

  Args:
    run: of which the rows are.
    rows: from `failures.distinct_valid`.
  """
  if not len(rows):
    return []
  leaves = _rates(rows, rows["groups"])
  if run.taxonomy is not None:
    return _meta_tree(run, rows, leaves)
  if "cells" not in rows or not rows["cells"].notna().any():
    return []
  cells = _rates(rows, rows["cells"], _MORE_THAN)
  branches = []
  for name, found in leaves.items():
    own = {cell: of for cell, of in cells.items() if cell.startswith(f"{name}/")}
    children = [_node(cell[len(name) + 1 :], name, of) for cell, of in own.items()]
    branches.append(_node(name, name, found, children=_worst_first(children)))
  return _worst_first(branches)


def _meta_tree(
  run: Run, rows: pd.DataFrame, leaves: dict[str, dict[str, Any]]
) -> list[Node]:
  meta_of, phrases = _meta_skills(run), _phrases(run)
  above = [sorted({meta_of[s] for s in own if s in meta_of}) for own in rows["groups"]]
  branches, rates = [], _rates(rows, above)
  for meta in run.taxonomy.meta_skills.to_dict("records"):
    name = meta["meta_skill"]
    children = [
      _node(skill, skill, found, phrases.get(skill, ""))
      for skill, found in leaves.items()
      if meta_of.get(skill) == name
    ]
    if name in rates:
      note = text_of(meta.get("description"))
      branches.append(_node(name, "", rates[name], note, _worst_first(children)))
  return _worst_first(branches)


def _worst_first(nodes: Iterable[Node]) -> list[Node]:
  return sorted(nodes, key=lambda node: -node.ends[0] if node.ends else 0.0)


def _node(
  name: str,
  skill: str,
  found: dict[str, Any],
  note: str = "",
  children: Iterable[Node] = (),
) -> Node:
  ends = _ends(found, "fdr", "low", "high")
  bar = None if None in ends.values() else tuple(ends.values())
  return Node(name, skill, note, rate(ends), bar, found["n"], list(children))


def _rates(
  rows: pd.DataFrame, labels: Iterable[Any], more_than: int = 0
) -> dict[str, dict[str, Any]]:
  """label -> its line of `metrics.skill_table`."""
  own = [list(some) if np.ndim(some) else [] for some in labels]
  labelled = rows.assign(skills=pd.Series(own, index=rows.index, dtype=object))
  found = metrics.skill_table(labelled, more_than=more_than)
  return {line["skill"]: line for line in found.to_dict("records")}


def _ends(found: dict[str, Any], *names: str) -> dict[str, float | None]:
  values = (None if math.isnan(found[name]) else found[name] for name in names)
  return dict(zip(("value", "low", "high"), values))


def _meta_skills(run: Run) -> dict[str, str]:
  if run.taxonomy is None:
    return {}
  known = run.taxonomy.skills
  return {s: m for s, m in zip(known["skill"], known["meta_skill"]) if text_of(m)}


def _phrases(run: Run) -> dict[str, str]:
  """skill -> the phrases that it was made of, those said most first."""
  known = run.taxonomy.primitives.sort_values("count", ascending=False, kind="stable")
  own = known.groupby("skill")["phrase"].agg(lambda texts: list(texts[:_PHRASES]))
  return {skill: ", ".join(texts) for skill, texts in own.items()}


def sentences(run: Run, rows: list[Row]) -> list[str]:
  """Where the model is worst, in words; nothing when the skills are not known."""
  known = [row for row in rows if row.other_n >= _MORE_THAN and row.failures]
  if not known or not failures.knows_skills(run.evaluations):
    return []
  told = [f"{said(row.name)} ({percent(row.other_value)} wrong)" for row in known[:3]]
  first = ", ".join(told[:-1]) + " and " if told[1:] else ""
  return [f"It is worst at {first}{told[-1]}."]
