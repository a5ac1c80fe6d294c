"""Skills over training: planted courses are told apart."""

import numpy as np
import pytest

from fmd_jax.analysis import dynamics, evolution
from tests.analysis.tables import rows

STEPS = 60


def course():
  """Skill "steady" always, "early" in the first third, "late" in the last."""
  generator = np.random.default_rng(0)
  lines = []
  for step in range(STEPS):
    for i in range(10):
      early = generator.random() < (0.4 if step < STEPS / 3 else 0.05)
      late = generator.random() < (0.4 if step >= 2 * STEPS / 3 else 0.05)
      skills = ["steady"] + ["early"] * early + ["late"] * late
      lines.append((f"image-{i}", f"question {step} {i}", skills, 0, step))
  return rows(lines)


def test_patterns():
  table = dynamics.temporal(course()).set_index("skill")
  assert table["pattern"].to_dict() == {
    "steady": "persistent",
    "early": "early-peaking",
    "late": "late-emerging",
  }
  assert table.loc["late", "peak"] >= STEPS * 0.6
  assert table.loc["early", "ratio_high"] < 1 < table.loc["late", "ratio_low"]
  assert table.loc["steady", ["first", "middle", "last"]].tolist() == [1, 1, 1]


def test_a_change_within_the_noise_is_persistent():
  # Wrong: 2 questions against 1 make a late-emerging skill.
  lines = [("i" + str(k % 8), f"q{k}", ["a"], 0, k) for k in range(90)]
  lines += [("i1", "early", ["rare"], 0, 3)] * 9 + [
    ("i2", "late", ["rare"], 0, 80)
  ] * 18
  table = dynamics.temporal(rows(lines)).set_index("skill")
  assert (
    table.loc["rare", "ratio"] > 1.5 and table.loc["rare", "pattern"] == "persistent"
  )


def test_shares_of_a_window():
  table = dynamics.density(course(), "skills")
  steady = table[table["skill"] == "steady"]
  assert (steady["share"] == 1).all() and len(steady) == dynamics.WINDOWS
  assert table.groupby("skill")["n"].sum()["steady"] == 10 * STEPS
  assert steady["step"].tolist() == list(range(0, STEPS, 3))


@pytest.mark.parametrize(
  ("question", "depth"),
  [
    ("What color is the star?", 0),
    ("Is the red square left of the star?", 1),
    ("What is next to the cup that is behind the plate on top of the box?", 4),
    ("Does the overlap thing nearest the arrow point up?", 1),
  ],
)
def test_depth(question, depth):
  assert evolution.depth(question) == depth


def test_measures():
  table = rows([("i", "Is it red?", "a", 0), ("i", "Is it a mauve-ish cup?", "a", 0)])
  found = evolution.measure(table["question"])
  assert found["length"].tolist() == [3, 6]
  # "is" and "it" are in both (0 bits), "red" in one of two (1 bit).
  assert found["granularity"].tolist() == pytest.approx([1 / 3, 4 / 6])


def test_trend_of_growing_and_of_steady_questions():
  grows, steady = [], []
  generator = np.random.default_rng(1)
  for step in range(12):
    for i in range(8):
      words = " ".join(["word"] * (3 + step // 2 + generator.integers(0, 2)))
      grows.append((f"i{i}", words, "a", 0, step))
      words = " ".join(["word"] * int(3 + generator.integers(0, 4)))
      steady.append((f"i{i}", words, "a", 0, step))
  table = evolution.trends(rows(grows)).set_index("measure")
  assert table.loc["length", "tau_low"] > 0.5 and table.loc["length", "p"] < 0.01
  assert table.loc["length", "last"] > table.loc["length", "first"] + 2
  assert table.loc["length", "images"] == 8
  # All have no reference: no trend is claimed of a constant.
  assert np.isnan(table.loc["depth", "tau"].astype(float))
  table = evolution.trends(rows(steady)).set_index("measure")
  assert table.loc["length", "tau_low"] < 0 < table.loc["length", "tau_high"]


def test_one_image_is_the_one_with_most_distinct_questions():
  lines = [("a", "same", "x", 0)] * 5 + [("b", "one", "x", 1), ("b", "two", "x", 0)]
  found = evolution.one_image(rows(lines))
  assert found["question"].tolist() == ["one", "two"]
  assert found["step"].tolist() == [5, 6] and found["failure"].tolist() == [True, False]
  assert len(evolution.one_image(rows(lines), "a")) == 1
