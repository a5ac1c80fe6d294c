"""The grid's table against numbers worked out by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from fmd_jax import metrics
from fmd_jax.metrics import grid, layout

OPENERS = ["What is", "How many", "Is the", "Which one", "Where are", "Whose hat"]


def rows(outcomes, openers):
  """Rows from "ok", "wrong" or "invalid", two an image; openers of the valid ones."""
  openers = iter(openers)
  return pd.DataFrame(
    {
      "image_id": [f"i{place // 2}" for place in range(len(outcomes))],
      "status": "ok",
      "question": [
        "no question" if o == "invalid" else f"{next(openers)} there?" for o in outcomes
      ],
      "valid": [o != "invalid" for o in outcomes],
      "correct": [o == "ok" for o in outcomes],
    }
  )


def embed(texts):
  """One axis an opener: the Vendi score of equal shares of n openers is n."""
  assert len(texts) == len(set(texts))
  assert "no question" not in texts
  return np.stack([np.eye(6)[OPENERS.index(t.removesuffix(" there?"))] for t in texts])


# 6 of 8 valid, 2 wrong, all openers differ: of any 4, SD is 4 and LD 1.
ZERO_SHOT = rows(["ok", "wrong"] * 2 + ["ok", "ok", "invalid", "invalid"], OPENERS)
# 4 of 8 valid, 3 wrong, two openers by halves: SD 2, LD ln 2 / ln 4.
BARE = rows(["wrong", "invalid"] * 3 + ["ok", "invalid"], OPENERS[:2] * 2)
ALL_VALID = rows(["wrong", "ok"] * 4, OPENERS[:2] * 4)


def asked(arm, frame, method="grpo", seed=0, protocol="during", planted=()):
  return grid.Asked(arm, seed, method, protocol, frame, dict(planted))


def row_of(table, name, part="rows", **wanted):
  found = [
    row
    for row in table[part]
    if row["row"] == name and all(row[key] == wanted[key] for key in wanted)
  ]
  assert len(found) == 1
  return found[0]


def test_one_arm_beside_zero_shot():
  """At each run's own N, Zero Shot's SD would be 6 and the ratio 1/3 instead of 1/2."""
  runs = [asked("full", ZERO_SHOT, "zero_shot"), asked("bare", BARE)]
  table = grid.make_table(runs, embed)
  assert table["common_n"] == {"during": 4, "after": None}
  base, bare = row_of(table, "zero_shot"), row_of(table, "bare")
  want = {"qvr": 0.5, "qvr_points": -25, "fdr": 0.75, "fdr_ratio": 2.25, "sd": 2}
  want |= {"sd_ratio": 0.5, "ld": 0.5, "ld_ratio": 0.5}
  for name, value in want.items():
    assert bare[name]["value"] == pytest.approx(value), name
  want = {"qvr": 0.75, "fdr": 1 / 3, "sd": 4, "ld": 1}
  for name in grid.METRICS:
    assert base[name]["value"] == (pytest.approx(want[name]) if name in want else None)
  assert (bare["questions"], bare["valid"], base["valid"]) == (8, 4, 6)
  # Not those of a plain binomial, and of the difference in points, not as a share.
  assert bare["qvr"] == {
    key: getattr(metrics.rates(BARE)["qvr"], key) for key in ("value", "low", "high")
  }
  difference = metrics.compare(BARE, ZERO_SHOT, "qvr")["difference"]
  assert bare["qvr_points"]["low"] == 100 * difference["low"]
  assert bare["fdr_ratio"] == metrics.compare(BARE, ZERO_SHOT, "fdr")["ratio"]
  assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_common_n_is_that_of_the_whole_grid_but_of_each_protocol():
  poor = rows(["ok", "wrong", "invalid", "invalid"], OPENERS)
  none = rows(["invalid"] * 4, [])
  runs = [
    asked("full", ZERO_SHOT, "zero_shot"),
    asked("full", ZERO_SHOT, "zero_shot", protocol="after"),
    asked("bare", BARE),
    asked("bare", BARE, protocol="after"),
    asked("poor", poor),
    asked("none", none),
  ]
  table = grid.make_table(runs, embed)
  # A run without a valid question has no diversity, and takes nobody's away.
  assert table["common_n"] == {"during": 2, "after": 4}
  assert row_of(table, "zero_shot", protocol="during")["sd"]["value"] == 2
  assert row_of(table, "zero_shot", protocol="after")["sd"]["value"] == 4
  assert row_of(table, "none")["sd"]["value"] is None
  assert row_of(table, "none")["fdr_ratio"]["value"] is None
  json.dumps(table, allow_nan=False)


def test_zero_shot_of_the_same_seed_and_rather_of_the_same_arm():
  """FDR .75 against 1/3 (seed 0), 1/2 (seed 1) and 3/4 (the arm's own)."""
  runs = [
    asked("full", ZERO_SHOT, "zero_shot", seed=0),
    asked("full", ALL_VALID, "zero_shot", seed=1),
    *(asked("bare", BARE, seed=seed) for seed in (0, 1, 2)),
    asked("own", BARE, "zero_shot", seed=0),
    asked("own", BARE, seed=0),
  ]
  table = grid.make_table(runs, embed)
  ratios = [row_of(table, "bare", seed=s)["fdr_ratio"]["value"] for s in (0, 1, 2)]
  assert ratios == [pytest.approx(2.25), pytest.approx(1.5), None]
  assert row_of(table, "own")["fdr_ratio"]["value"] == 1
  # Two arms ran it: "zero_shot" alone would mix them.
  names = {row["row"] for row in table["rows"]}
  assert names == {"full/zero_shot", "own/zero_shot", "bare", "own"}


def test_means_over_seeds():
  """A missing seed counted as 0 would give an FDR ratio of 1.25."""
  runs = [
    asked("full", ZERO_SHOT, "zero_shot", seed=0),
    asked("full", ALL_VALID, "zero_shot", seed=1),
    asked("bare", BARE, seed=0, planted={"recall": 0.25, "precision": None}),
    asked("bare", ALL_VALID, seed=1, planted={"recall": 0.75, "precision": None}),
    asked("bare", ALL_VALID, seed=2),
  ]
  table = grid.make_table(runs, embed)
  mean = row_of(table, "bare", "means")
  own = [row_of(table, "bare", seed=seed) for seed in (0, 1, 2)]
  assert mean["seeds"] == [0, 1, 2]
  assert mean["qvr"]["value"] == pytest.approx((0.5 + 1 + 1) / 3)
  assert mean["fdr_ratio"]["value"] == pytest.approx((2.25 + 1) / 2)
  assert (mean["qvr"]["seeds"], mean["fdr_ratio"]["seeds"]) == (3, 2)
  # The interval of one seed, or the mean of the ends, would be narrower.
  assert mean["fdr"]["low"] == min(row["fdr"]["low"] for row in own)
  assert mean["fdr"]["high"] == max(row["fdr"]["high"] for row in own)
  recall = {"value": 0.5, "low": 0.25, "high": 0.75, "seeds": 2}
  assert mean["recall"] == recall
  assert (
    mean["precision"]
    == mean["area"]
    == recall | dict.fromkeys(("value", "low", "high")) | {"seeds": 0}
  )
  # One seed has no range; [value, value] would look like certainty.
  assert row_of(table, "zero_shot", "means")["sd"]["low"] is not None
  one = grid.make_table(runs[2:3], embed)
  assert row_of(one, "bare", "means")["sd"]["low"] is None


def test_an_unbounded_interval_stays_one():
  """Zero Shot fails on one image of four: without it the ratio is x / 0."""
  zero_shot = rows(["wrong"] + ["ok"] * 7, OPENERS[:2] * 4)
  runs = [
    asked("full", zero_shot, "zero_shot", seed=0),
    asked("full", ALL_VALID, "zero_shot", seed=1),
    *(asked("bare", ALL_VALID, seed=seed) for seed in (0, 1)),
  ]
  table = grid.make_table(runs, embed)
  assert row_of(table, "bare", seed=0)["fdr_ratio"]["high"] is None
  assert row_of(table, "bare", seed=1)["fdr_ratio"]["high"] is not None
  mean = row_of(table, "bare", "means")["fdr_ratio"]
  # The greatest finite end would be the other seed's.
  assert mean["low"] is not None
  assert mean["high"] is None
  assert "∞]" in layout.markdown(table)


def test_long_and_markdown():
  runs = [
    asked("full", ZERO_SHOT, "zero_shot"),
    asked("bare", BARE, planted={"recall": 0.5}),
  ]
  table = grid.make_table(runs, embed, {"bare": {"qvr": 0.8718, "ld": 0.19}})
  df = layout.long(table)
  names = ["row", "metric", "protocol", "mean", "low", "high", "seeds", "paper"]
  assert list(df) == names
  line = df[(df["row"] == "bare") & (df["metric"] == "qvr")].iloc[0]
  assert (line["protocol"], line["mean"], line["seeds"]) == ("during", 0.5, 1)
  assert line["low"] < 0.5 < line["high"]
  assert line["paper"] == 0.8718
  line = df[(df["row"] == "bare") & (df["metric"] == "sd")].iloc[0]
  assert math.isnan(line["low"])
  assert math.isnan(line["paper"])
  text = layout.markdown(table)
  lines = text.splitlines()
  assert lines[0] == "## during, mean over seeds (SD and LD of 4 valid questions)"
  # A column that nothing is known of is left out.
  assert "precision" not in text
  head = [cell.strip() for cell in lines[2].strip("|").split("|")]
  paper = next(line for line in lines if line.startswith("| bare, the paper"))
  paper = dict(zip(head, (cell.strip() for cell in paper.strip("|").split("|"))))
  assert (paper["QVR"], paper["LD"], paper["FDR"]) == ("0.872", "0.190", "")
  first = next(line for line in lines if line.startswith("| bare | 0 |"))
  assert "| 2.25 [" in first
  assert "| 2.00 |" in first


def test_read(tmp_path):
  """As a run leaves it; planted numbers are not there in every metrics.json."""
  (tmp_path / "evaluations").mkdir()
  nullable = BARE.astype({"valid": "boolean", "correct": "boolean"})
  nullable.loc[0, ["status", "valid", "correct"]] = ["unscored", pd.NA, pd.NA]
  for name in ("grpo", "grpo_heldout", "zero_shot", "zero_shot_heldout"):
    nullable.assign(method="x").to_parquet(tmp_path / f"evaluations/{name}.parquet")
  known = {
    "grpo": {
      "during": {"planted": {"recall": 0.5, "n": 8}},
      "after": {"planted": None},
    },
    "zero_shot": {"during": {}, "after": {}},
  }
  (tmp_path / "metrics.json").write_text(json.dumps({"methods": known}))
  runs = grid.read(tmp_path, "bare", 7)
  assert [(run.method, run.protocol) for run in runs] == [
    ("zero_shot", "during"),
    ("zero_shot", "after"),
    ("grpo", "during"),
    ("grpo", "after"),
  ]
  assert {(run.arm, run.seed) for run in runs} == {("bare", 7)}
  assert [run.planted.get("recall") for run in runs] == [None, None, 0.5, None]
  table = grid.make_table(runs, embed)
  # The unscored row counts as neither valid nor asked in vain: 3 of 7.
  assert row_of(table, "bare", protocol="after")["qvr"]["value"] == pytest.approx(3 / 7)


def planted(n, recall, **more):
  """A course of `planted_truth` whose recall climbs from 0 to `recall` at n."""
  curve = {"n": [0, n], "recall": [0.0, recall]}
  return {"n": n, "recall": recall, "precision": 1.0, "curve": curve, **more}


def test_planted_numbers_are_those_of_the_first_6000():
  # Of all 12 000, recall would be 1 and explained 0.8; the ratio of the whole areas,
  # .5 / .25, would be 2 instead of the 1 of the 6000 that both have asked.
  full = planted(
    12_000,
    1.0,
    area=0.5,
    at_6000={"recall": 0.5, "precision": 0.75},
    explained={"recall": 0.8, "at_6000": {"recall": 0.4, "precision": 0.9}},
  )
  few = planted(6000, 0.5, area=0.25, at_6000=None, explained={"recall": 0.3})
  runs = [
    asked("full", ZERO_SHOT, "zero_shot", planted=few),
    asked("full", BARE, planted=full),
  ]
  table = grid.make_table(runs, embed)
  names = ("recall", "precision", "recall_explained", "precision_explained")
  for row, wanted in (
    ("full", (0.5, 0.75, 0.4, 0.9)),
    ("zero_shot", (0.5, 1, 0.3, None)),
  ):
    assert tuple(row_of(table, row)[name]["value"] for name in names) == wanted
  assert row_of(table, "full")["area_ratio"]["value"] == pytest.approx(1)
  assert row_of(table, "zero_shot")["area_ratio"]["value"] is None


def test_a_reference_is_what_the_other_rows_are_compared_with():
  # QVR .5 against 1 of the same seed; against Zero Shot's .75 it would be -25.
  runs = [
    asked("full", ZERO_SHOT, "zero_shot"),
    asked("full", ALL_VALID),
    asked("bare", BARE),
    asked("bare", BARE, seed=1),
  ]
  table = grid.make_table(runs, embed, reference="full")
  points = {
    (row["row"], row["seed"]): row["qvr_points_reference"]["value"]
    for row in table["rows"]
  }
  assert points.pop(("bare", 0)) == pytest.approx(-50)
  assert set(points.values()) == {None} and len(points) == 3
  assert row_of(table, "bare", seed=0)["qvr_points"]["value"] == pytest.approx(-25)
