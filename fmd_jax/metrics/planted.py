"""Whether the planted blind spots were found, and after how many questions.

A cell is a skill with an attribute value; a question lies in several. The truth about a
cell is its failure rate in a census. W: the cells with a rate of at least 0.5; P: the
planted ones among them. D: the cells that a method's questions show to be so.

A questioner that asks about stars also fills `color/size=large`, an innocent cell, with
failures. So D comes twice: `plain`, each cell tested by itself, and `explained`, where
the questions of a discovered cell count for no other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import special

from fmd_jax.metrics.comparison import benjamini_hochberg
from fmd_jax.metrics.rates import flags

WEAK = 0.5  # failure rate
MIN_QUESTIONS = 15  # distinct valid ones, for a cell to be tested
ALPHA = 0.05
CHECKPOINTS = 30  # of a curve
BUDGET = 6000  # questions; the one fixed number that methods are compared at


class Found(NamedTuple):
  """A discovered cell: its code, questions, failures and lower bound of the rate."""

  cell: int
  n: int
  failures: int
  low: float


class Questions(NamedTuple):
  """The distinct valid questions of a method, in the order they were asked.

  Attributes:
    place: [R] how many questions had been asked before each, of any status.
    failed: [R].
    row, cell: [M] the pairs of question and cell; `row` ascends.
  """

  place: Int[np.ndarray, "R"]
  failed: Bool[np.ndarray, "R"]
  row: Int[np.ndarray, "M"]
  cell: Int[np.ndarray, "M"]

  def first(self, n: int) -> "Questions":
    """What was known after the first `n` questions."""
    rows = np.searchsorted(self.place, n)
    pairs = np.searchsorted(self.row, rows)
    return Questions(
      self.place[:rows], self.failed[:rows], self.row[:pairs], self.cell[:pairs]
    )


def lower_bound(
  failures: Int[np.ndarray, "C"], n: Int[np.ndarray, "C"]
) -> Float[np.ndarray, "C"]:
  """Clopper and Pearson's lower bound of rates above 0, one-sided, at 1 - ALPHA."""
  return special.betaincinv(failures, n - failures + 1, ALPHA)


def rejected(
  failures: Int[np.ndarray, "C"], n: Int[np.ndarray, "C"]
) -> Int[np.ndarray, "D"]:
  """The cells whose data reject "rate < 0.5", by the exact binomial test.

  Benjamini and Hochberg's procedure holds the false discovery rate at ALPHA over the
  cells with at least MIN_QUESTIONS; the others are not tested.

  Returns:
    Their codes, smallest p-value first.
  """
  tested = np.flatnonzero(n >= MIN_QUESTIONS)
  p = special.bdtrc(failures[tested] - 1, n[tested], WEAK)
  order = np.argsort(p, kind="stable")
  return tested[order[benjamini_hochberg(p)[order] <= ALPHA]]


def discovered(questions: Questions, cells: int, *, explained: bool) -> list[Found]:
  """D: the cells that the questions show to fail at least half of the time.

  Args:
    questions: of one method.
    cells: how many cells there are; `questions.cell` is below it.
    explained: take the cells one by one, highest lower bound first, each time without
      the questions that lie in one already taken, and test the rest again.

  Returns:
    The cells, highest lower bound first (as taken when explained); the numbers are
    those of the questions that were counted.
  """
  row, cell = questions.row, questions.cell
  counted = np.ones(len(questions.failed), bool)
  found: list[Found] = []
  while True:
    wrong = questions.failed & counted
    n = np.bincount(cell[counted[row]], minlength=cells)
    failures = np.bincount(cell[wrong[row]], minlength=cells)
    new = rejected(failures, n)
    low = lower_bound(failures[new], n[new])
    # Ties by more data, then by the cells' order, never by the rows'.
    best = np.lexsort((new, -n[new], -low))[: 1 if explained else None]
    found += [
      Found(int(c), int(n[c]), int(failures[c]), float(bound))
      for c, bound in zip(new[best], low[best])
    ]
    if not explained or not len(new):
      return found
    counted[row[cell == found[-1].cell]] = False


def failing_cells(df: pd.DataFrame) -> list[str]:
  """The cells that questions show to fail at least half of the time, surest first.

  Each is found without the questions that lie in one before it: the "explained" D.

  Args:
    df: rows as in `planted_truth`; without known cells there are none.
  """
  if "cells" not in df or df["cells"].isna().all():
    return []
  names = sorted({cell for own in df["cells"].dropna() for cell in own})
  found = discovered(_questions(df, names), len(names), explained=True)
  return [names[own.cell] for own in found]


def planted_truth(
  df: pd.DataFrame,
  census: Mapping[str, Mapping[str, Any]],
  *,
  checkpoints: int = CHECKPOINTS,
) -> dict[str, Any] | None:
  """Recall and precision of a method's discovered cells, and their course.

  Args:
    df: rows in the order of asking, with image_id, status, question, valid, correct and
      `cells`, a list or null. Each (image, question) counts once, the first time it is
      valid; n counts every row.
    census: cell -> n, failures, rate, planted. Cells outside it are left out: nothing
      is known of them.
    checkpoints: of the curves, evenly over 0..N; 0 comes on top.

  Returns:
    Plain JSON: "planted" (P: cell, n, rate), "weak" (|W|), "n" (N); "recall" |D ∩ P| /
    |P|, "precision" |D ∩ W| / |D|; "found" (D ∩ P) and "found_after" (cell -> questions
    after which it was in D to the end, or null); "discovered" (D: cell, n, failures,
    rate, low; planted, weak, census: its rate there); "curve" (n, recall, precision),
    "area" (mean recall over 0..N, by trapezoids), "at_6000" (recall and precision at
    this n). All from "recall" on is of the plain D; "explained" holds the same of the
    other. None stands for what has no denominator. The whole is None when no row's
    cells are known.
  """
  if "cells" not in df or df["cells"].isna().all():
    return None
  questions = _questions(df, list(census))
  weak = {c for c, own in enumerate(census.values()) if own["rate"] >= WEAK}
  planted = {c for c, own in enumerate(census.values()) if c in weak and own["planted"]}
  stops = np.linspace(0, len(df), checkpoints + 1).round().astype(int)
  plain, explained = (
    _course(questions, census, weak, planted, np.unique(stops), way)
    for way in (False, True)
  )
  return {
    "planted": [
      {"cell": name, "n": own["n"], "rate": own["rate"]}
      for c, (name, own) in enumerate(census.items())
      if c in planted
    ],
    "weak": len(weak),
    "n": len(df),
    **plain,
    "explained": explained,
  }


def area(curve: Mapping[str, Sequence], until: int | None = None) -> float | None:
  """Mean recall over the first questions, by trapezoids.

  Args:
    curve: n (from 0, ascending) and recall.
    until: the last question; None is the curve's own end.

  Returns:
    In [0, 1]; None when there is no recall, or no question.
  """
  until = curve["n"][-1] if until is None else until
  if None in curve["recall"] or not until:
    return None
  n = np.union1d([k for k in curve["n"] if k < until], until)
  recall = np.interp(n, curve["n"], curve["recall"])
  return float(np.trapezoid(recall, n) / until)


def area_ratio(a: dict[str, Any] | None, b: dict[str, Any] | None) -> float | None:
  """Area under the plain recall curve of `a` over that of `b`, the baseline.

  Both are taken over the questions that the shorter one asked; None when one has no
  area or the baseline found nothing.
  """
  if not a or not b:
    return None
  until = min(a["n"], b["n"])
  first, second = (area(own["curve"], until) for own in (a, b))
  return first / second if first is not None and second else None


def _questions(df: pd.DataFrame, names: list[str]) -> Questions:
  columns = flags(df)
  valid = np.flatnonzero(columns["valid"])
  again = df.iloc[valid].duplicated(["image_id", "question"]).to_numpy()
  place = valid[~again]
  code = {name: c for c, name in enumerate(names)}
  known = df["cells"].notna().to_numpy()[place]
  cells = df["cells"].to_numpy(object)[place]
  pairs = [
    (row, code[name])
    for row in np.flatnonzero(known)
    for name in set(cells[row]) & code.keys()
  ]
  row, cell = np.array(pairs, int).reshape(-1, 2).T
  return Questions(place, columns["failure"][place], row, cell)


def _course(questions, census, weak, planted, stops, explained) -> dict[str, Any]:
  """From "recall" to "at_6000" of `planted_truth`."""

  def scores(found: list[Found]) -> dict[str, float | None]:
    cells = {f.cell for f in found}
    return {
      "recall": len(cells & planted) / len(planted) if planted else None,
      "precision": len(cells & weak) / len(cells) if cells else None,
    }

  def after(n: int) -> list[Found]:
    return discovered(questions.first(n), len(census), explained=explained)

  steps, names = [after(n) for n in stops.tolist()], list(census)
  found, points = steps[-1], [scores(step) for step in steps]
  curve = {key: [point[key] for point in points] for key in ("recall", "precision")}
  curve = {"n": stops.tolist(), **curve}
  found_after = {}
  for c in sorted(planted):
    # To the end: a cell that was in D by luck and left it again was not found.
    last = max(i for i, step in enumerate(steps) if c not in {f.cell for f in step})
    found_after[names[c]] = int(stops[last + 1]) if last + 1 < len(stops) else None
  return {
    **points[-1],
    "found": [names[f.cell] for f in found if f.cell in planted],
    "found_after": found_after,
    "discovered": [
      {
        "cell": names[f.cell],
        "n": f.n,
        "failures": f.failures,
        "rate": f.failures / f.n,
        "low": f.low,
        "planted": f.cell in planted,
        "weak": f.cell in weak,
        "census": census[names[f.cell]]["rate"],
      }
      for f in found
    ],
    "curve": curve,
    "area": area(curve),
    "at_6000": scores(after(BUDGET)) if stops[-1] >= BUDGET else None,
  }
