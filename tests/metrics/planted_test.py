"""Planted cells found: against plain loops and SciPy, and by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fmd_jax import metrics
from fmd_jax.metrics import planted
from tests.metrics.frames import one

TRUTH = {  # cell -> rate, planted
  "color/shape=star": (0.9, True),
  "ocr/color=blue": (0.8, True),
  "color/size=large": (0.3, False),
  "color/color=red": (0.1, False),
  "quadrant/size=small": (0.55, False),
  "size/shape=arrow": (0.2, True),  # planted in vain: not in P
  "ocr/shape=star": (0.95, True),  # never asked
}


def census(truth=TRUTH):
  return {
    cell: {"n": 400, "failures": int(400 * rate), "rate": rate, "planted": own}
    for cell, (rate, own) in truth.items()
  }


def asked(n=900, seed=0):
  """Rows that repeat themselves, some not valid; stars are large, mostly."""
  rng, rows = np.random.default_rng(seed), []
  cells = [*list(TRUTH)[:6], "nobody/knows=it"]
  for _ in range(n):
    first = str(rng.choice(cells[:2] + cells[3:]))
    own = [first]
    if first == "color/shape=star" and rng.random() < 0.9:
      own.append("color/size=large")
    image, number = rng.integers(30), rng.integers(6)
    wrong = np.random.default_rng([image, number, len(first)]).random()
    status = str(rng.choice(["ok", "unparsed", "unscored"], p=[0.8, 0.1, 0.1]))
    valid = bool(rng.random() < 0.8) if status == "ok" else None
    rows.append(
      {
        "image_id": f"i{image}",
        "question": f"{first} {number}?",
        "status": status,
        "valid": valid,
        "correct": bool(wrong > TRUTH.get(first, (0.9,))[0]) if valid else None,
        "cells": np.array(own) if valid else None,  # as Parquet gives it
      }
    )
  return pd.DataFrame(rows).astype({"valid": "boolean", "correct": "boolean"})


# ---- the same by loops ----------------------------------------------------------


def loop(rows, truth, explained):
  """D of the rows, as a list of (cell, n, failures, low)."""
  seen, kept = set(), []
  for row in rows:
    key = row["image_id"], row["question"]
    if row["status"] == "ok" and row["valid"] and key not in seen:
      seen.add(key)
      kept.append((set(row["cells"]) & set(truth), not row["correct"]))
  found = []
  while True:
    tests = {}
    for cell in truth:
      own = [wrong for cells, wrong in kept if cell in cells]
      if len(own) >= 15:
        tests[cell] = stats.binomtest(sum(own), len(own), 0.5, alternative="greater")
    p = stats.false_discovery_control([t.pvalue for t in tests.values()] or [1.0])
    new = [
      (cell, t.n, t.k, float(t.proportion_ci(0.95, "exact").low))
      for (cell, t), adjusted in zip(tests.items(), p)
      if adjusted <= 0.05
    ]
    new.sort(key=lambda own: -own[3])
    found += new[:1] if explained else new
    if not explained or not new:
      return found
    kept = [(cells, wrong) for cells, wrong in kept if new[0][0] not in cells]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("explained", [False, True])
def test_equals_loops_at_every_checkpoint(seed, explained):
  """Counts, tests, order and scores; wrong with n of valid rows only, with repeats
  counted, with the last instead of the first n rows, or with P not cut to W.
  """
  df = asked(seed=seed)
  out = metrics.planted_truth(df, census(), checkpoints=9)
  assert json.loads(json.dumps(out, allow_nan=False)) == out
  own = out["explained"] if explained else out
  rows = df.to_dict("records")
  weak = {cell for cell, (rate, _) in TRUTH.items() if rate >= 0.5}
  hidden = {cell for cell in weak if TRUTH[cell][1]}
  assert {p["cell"] for p in out["planted"]} == hidden
  assert (out["weak"], out["n"]) == (4, 900)
  course = []
  for n in own["curve"]["n"]:
    found = loop(rows[:n], TRUTH, explained)
    cells = {cell for cell, *_ in found}
    recall = len(cells & hidden) / 3
    precision = len(cells & weak) / len(cells) if cells else None
    course.append((n, recall, precision, cells))
  assert own["curve"]["n"] == [100 * i for i in range(10)]
  assert own["curve"]["recall"] == [c[1] for c in course]
  assert own["curve"]["precision"] == [c[2] for c in course]
  assert (own["recall"], own["precision"]) == course[-1][1:3]
  got = [(d["cell"], d["n"], d["failures"]) for d in own["discovered"]]
  assert got == [f[:3] for f in found] and len(found) >= 2
  np.testing.assert_allclose(
    [d["low"] for d in own["discovered"]], [f[3] for f in found], rtol=1e-9
  )
  for d in own["discovered"]:
    assert d["rate"] == d["failures"] / d["n"]
    assert (d["census"], d["planted"]) == (TRUTH[d["cell"]][0], d["cell"] in hidden)
    assert d["weak"] == (d["cell"] in weak)
  assert own["found"] == [c for c, *_ in found if c in hidden]
  for cell, after in own["found_after"].items():
    wanted = None
    for n, _, _, cells in reversed(course):
      if cell not in cells:
        break
      wanted = n
    assert after == wanted


# ---- by hand --------------------------------------------------------------------


def failing(n, failures, *cells):
  """n questions of these cells, the failures last."""
  return [
    one(correct=i < n - failures, question=f"{cells} {i}?") | {"cells": list(cells)}
    for i in range(n)
  ]


def nothing(n):
  return [one(status="unparsed", valid=None, correct=None) | {"cells": None}] * n


def measured(rows, truth, **options):
  df = pd.DataFrame(rows).astype({"valid": "boolean", "correct": "boolean"})
  return metrics.planted_truth(df, census(truth), **options)


def test_benjamini_and_hochberg():
  """P(X >= 15 of 20) = .0207, P(X >= 14) = .0577; thresholds .05 i / 4."""
  n = np.full(4, 20)
  # Bonferroni's .0125, or a procedure that stops at the first large p: none.
  assert set(planted.rejected(np.array([10, 15, 14, 15]), n)) == {1, 3}
  # No correction: the second too.
  assert not len(planted.rejected(np.array([10, 15, 10, 10]), n))
  # Cells that are not tested don't count: .05 / 4 would reject nothing. The test is
  # on "at least 12 of 15" (.0176): "more than 12" rejects 11 of 15 (.0592) too.
  n = np.array([15, 14, 14, 14])
  assert planted.rejected(np.array([12, 14, 0, 0]), n).tolist() == [0]
  assert not len(planted.rejected(np.array([11, 14, 0, 0]), n))


def test_lower_bound():
  """All of n fail: alpha^(1/n), not the two-sided .025^(1/n)."""
  got = planted.lower_bound(np.array([15]), np.array([15]))
  np.testing.assert_allclose(got, 0.05 ** (1 / 15))


def test_a_question_counts_once():
  """5 questions asked 4 times are 5; the same text on 15 pictures is 15."""
  truth = {"a/b=c": (0.9, True)}
  assert measured(failing(5, 5, "a/b=c") * 4, truth)["recall"] == 0
  row = failing(1, 1, "a/b=c")[0]
  assert measured([row | {"image_id": str(i)} for i in range(15)], truth)["recall"] == 1


def test_questions_that_are_not_valid_were_asked_too():
  """And they come where they come: n of valid rows only says 15, any order 85."""
  truth = {"a/b=c": (0.9, True)}
  out = measured(nothing(85) + failing(15, 15, "a/b=c"), truth, checkpoints=20)
  assert out["found_after"] == {"a/b=c": 100} and out["n"] == 100
  out = measured(failing(15, 15, "a/b=c") + nothing(85), truth, checkpoints=20)
  assert out["found_after"] == {"a/b=c": 15}


def test_an_innocent_cell_is_explained_by_the_planted_ones():
  """Large objects fail only where they are stars or striped.

  Plain flags `large`. So would stepwise by p-value: `large` has the most failures, is
  taken first, and nothing is left of the two that explain it.
  """
  star, striped, large = "c/shape=star", "c/pattern=striped", "c/size=large"
  truth = {large: (0.3, False), star: (0.9, True), striped: (0.9, True)}
  rows = failing(16, 16, star, large) + failing(16, 16, striped, large)
  out = measured(rows + failing(8, 2, large), truth)
  assert out["discovered"][2] | {"low": None} == {
    "cell": large, "n": 40, "failures": 34, "rate": 0.85, "low": None,
    "planted": False, "weak": False, "census": 0.3,
  }  # fmt: skip
  assert (out["recall"], out["precision"]) == (1.0, 2 / 3)
  out = out["explained"]
  assert out["found"] == [star, striped] and out["precision"] == out["recall"] == 1.0
  # Still taken when it fails by itself.
  out = measured(rows + failing(20, 15, large), truth)["explained"]
  assert [(d["cell"], d["n"]) for d in out["discovered"]][2:] == [(large, 20)]


def test_a_cell_that_was_never_asked_is_not_found():
  """1 over the cells that were asked about."""
  truth = {"a/b=c": (0.9, True), "a/b=d": (0.9, True)}
  out = measured(failing(20, 20, "a/b=c"), truth, checkpoints=4)
  assert out["recall"] == 0.5 and out["found_after"] == {"a/b=c": 15, "a/b=d": None}


def test_a_cell_that_leaves_d_again_is_not_found():
  """40 failures, then 80 right answers: at the first checkpoint only."""
  truth = {"a/b=c": (0.9, True)}
  rows = failing(40, 40, "a/b=c") + failing(80, 0, "a/b=c", "a/b=e")
  out = measured(rows, truth, checkpoints=3)
  assert out["curve"]["recall"] == [0, 1, 0, 0]
  assert out["curve"]["precision"] == [None, 1, None, None]
  assert out["found_after"] == {"a/b=c": None}
  assert out["area"] == pytest.approx(1 / 3)


def test_area_by_hand():
  """Trapezoids over uneven steps; the mean of the points gives 1/3 and 1/2."""
  curve = {"n": [0, 80, 100], "recall": [0.0, 0.0, 1.0]}
  assert planted.area(curve) == pytest.approx(0.1)
  assert planted.area(curve, 80) == 0.0
  assert planted.area(curve, 90) == pytest.approx(2.5 / 90)
  assert planted.area({"n": [0], "recall": [0.0]}) is None
  assert planted.area({"n": [0, 9], "recall": [None, None]}) is None


def test_areas_are_compared_over_the_same_questions():
  """Each over its own N: .5 / .25, although they are equal as far as both go."""
  short = {"n": 100, "curve": {"n": [0, 50, 100], "recall": [0.0, 0.0, 1.0]}}
  long = {"n": 200, "curve": {"n": [0, 50, 100, 200], "recall": [0.0, 0.0, 1.0, 1.0]}}
  never = {"n": 100, "curve": {"n": [0, 100], "recall": [0.0, 0.0]}}
  assert metrics.area_ratio(long, short) == metrics.area_ratio(short, long) == 1.0
  assert metrics.area_ratio(never, short) == 0.0
  assert metrics.area_ratio(short, never) is None
  assert metrics.area_ratio(short, None) is metrics.area_ratio(None, short) is None


def test_at_6000_is_of_the_first_6000():
  """The fifteenth question is the 6001st: of all of them, or 6001, recall is 1."""
  truth = {"a/b=c": (0.9, True)}
  rows = nothing(5985) + failing(15, 15, "a/b=c")
  assert measured(rows, truth)["at_6000"] == {"recall": 1.0, "precision": 1.0}
  late = measured(nothing(1) + rows, truth)
  assert late["recall"] == 1.0 and late["at_6000"] == {"recall": 0.0, "precision": None}
  assert late["explained"]["at_6000"] == late["at_6000"]
  assert measured(rows[1:], truth)["at_6000"] is None


def test_where_nothing_is_known_nothing_is_said():
  """Photographs have no cells, a model without blind spots no P."""
  rows = failing(20, 20, "a/b=c")
  assert measured([row | {"cells": None} for row in rows], TRUTH) is None
  assert (
    measured([{k: v for k, v in r.items() if k != "cells"} for r in rows], {}) is None
  )
  out = measured(rows, {"a/b=c": (0.9, False)})
  assert out["recall"] is out["area"] is None and out["planted"] == []
  assert out["precision"] == 1.0
  out = measured(rows, {"a/b=d": (0.9, True)})  # of a/b=c nobody knows
  assert (out["recall"], out["precision"], out["discovered"]) == (0.0, None, [])


def test_speed():
  """20 000 rows of 4 in 289 cells: a second or two; a loop over rows at every
  checkpoint and step takes minutes.
  """
  import time

  names = [f"s/a={i}" for i in range(289)]
  truth = {name: (0.9 if i < 40 else 0.2, i < 20) for i, name in enumerate(names)}
  rng, rows = np.random.default_rng(0), []
  for i in range(20_000):
    own = [names[c] for c in rng.choice(289, 4, replace=False)]
    wrong = rng.random() < max(truth[c][0] for c in own)
    rows.append(
      one(str(i % 1500), correct=not wrong, question=f"{i}?") | {"cells": own}
    )
  start = time.process_time()
  out = measured(rows, truth)
  assert len(out["explained"]["discovered"]) > 30
  assert time.process_time() - start < 10
