"""Which question slots people are asked about: a stratified sample of a judged run."""

import collections
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import metrics
from fmd_jax.evaluate import allocate, draw, read_evaluations
from fmd_jax.records.reader import read_parquet
from fmd_jax.trust.scoring import KEY

CELL = ["method", "split", "verdict"]
NO_SKILL = "(unknown)"
RARE = "(rare)"


def judged_slots(
  workdir: str | os.PathLike, methods: Sequence[str] = ()
) -> pd.DataFrame:
  """The slots that the evaluator gave a verdict on.

  Args:
    workdir: of an evaluated run.
    methods: only of these; empty for all.

  Returns:
    `KEY`, question, answer, skill (the rarest of the question's skills, by the taxonomy
    where there is one) and verdict: "invalid", "wrong" or "right". Questions that were
    not parsed or not scored have no verdict and are left out.

  Raises:
    ValueError: the run is not evaluated, or a method is not of this run.
  """
  tables = read_evaluations(workdir)
  if not tables:
    raise ValueError(f"{workdir} is not evaluated: run launch.evaluate first")
  there = sorted({method for _, method in tables})
  absent = sorted(set(methods) - set(there))
  if absent:
    raise ValueError(
      f"no evaluations of method {', '.join(absent)}; there are: {', '.join(there)}"
    )
  rows = pd.concat(
    [table for (_, name), table in tables.items() if not methods or name in methods],
    ignore_index=True,
  )
  path = epath.Path(workdir) / "taxonomy" / "assignments.parquet"
  if path.exists():
    rows = metrics.with_skills(rows, read_parquet(path))
  rows = rows[(rows["status"] == "ok") & rows["valid"].notna()].reset_index(drop=True)
  if not len(rows):
    raise ValueError(f"no question of {workdir} was given a verdict")
  valid = rows["valid"].astype(bool)
  correct = rows["correct"].astype("boolean").fillna(False).astype(bool)
  verdict = np.where(valid, np.where(correct, "right", "wrong"), "invalid")
  skill = _rarest(rows["skills"].tolist())
  return rows[[*KEY, "question", "answer"]].assign(skill=skill, verdict=verdict)


def _rarest(skills: Sequence[Sequence[str] | None]) -> list[str]:
  own = [[] if s is None or isinstance(s, float) else sorted(set(s)) for s in skills]
  count = collections.Counter(skill for some in own for skill in some)
  return [min(s, key=lambda x: (count[x], x)) if s else NO_SKILL for s in own]


def draw_slots(slots: pd.DataFrame, items: int, seed: int) -> pd.DataFrame:
  """Draws `items` slots without replacement, stratified by method, skill and verdict.

  Each method, split and verdict gets as many, so that sensitivity and specificity are
  both told for every method; within those each skill gets its share and at least one.
  Where there are more skills than slots to draw, the rarest are one stratum.

  Args:
    slots: of `judged_slots`.
    items: how many; all of them when there are no more.
    seed: of the draw.

  Returns:
    The drawn rows with `stratum` (its skill, or that of the rarest) and `weight`, one
    over the probability with which each was drawn.

  Raises:
    ValueError: too few to have one of each method, split and verdict.
  """
  cells = {"/".join(key): part for key, part in slots.groupby(CELL, sort=True)}
  if items < len(cells):
    raise ValueError(
      f"{items} items are too few: with {len(cells)} it is one for each method, split "
      f"and verdict of {', '.join(cells)}"
    )
  parts = []
  sizes = allocate({name: len(part) for name, part in cells.items()}, items)
  for name, cell in cells.items():
    cell = cell.assign(stratum=_strata(cell["skill"], sizes[name]))
    there = cell["stratum"].value_counts().to_dict()
    for stratum, n in _shares(there, sizes[name]).items():
      own = cell[cell["stratum"] == stratum]
      drawn = draw(f"{name}/{stratum}", len(own), n, seed)
      parts.append(own.iloc[drawn].assign(weight=len(own) / n))
  return pd.concat(parts, ignore_index=True)


def _strata(skill: pd.Series, n: int) -> pd.Series:
  """The skill, or RARE for the smallest ones where there are more than n."""
  count = skill.value_counts().to_dict()
  largest = sorted(count, key=lambda name: (-count[name], name))
  kept = largest if len(largest) <= n else largest[: n - 1]
  return skill.where(skill.isin(kept), RARE)


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
  """Shares of `total` in proportion to the sizes, each at least 1 and no larger."""
  out = dict.fromkeys(sizes, 1)
  whole = sum(sizes.values())
  for _ in range(total - len(sizes)):
    room = [name for name in sizes if out[name] < sizes[name]]
    # The stratum that is furthest behind its share is next.
    out[
      max(room, key=lambda name: (sizes[name] * total / whole - out[name], name))
    ] += 1
  return out
