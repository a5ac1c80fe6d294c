"""Failure modes: the planted one is blamed, not what comes along with it."""

import numpy as np

from fmd_jax.analysis import modes, recovery
from tests.analysis.tables import rows


def planted(seed=0, n=1500):
  """Yellow things fail in "presence" only, and most circles are yellow."""
  generator = np.random.default_rng(seed)
  lines = []
  for k in range(n):
    shape = generator.choice(["circle", "square", "star"])
    yellow = generator.random() < (0.7 if shape == "circle" else 0.2)
    color = "yellow" if yellow else generator.choice(["red", "blue"])
    skill = generator.choice(["presence", "reading"])
    rate = 0.9 if yellow and skill == "presence" else 0.1
    text = f"Is there a {color} {shape} number {k}?"
    lines.append((f"i{k % 40}", text, [skill], generator.random() < rate))
  return rows(lines)


def test_the_planted_mode_is_first_and_its_companions_are_not_blamed():
  found = modes.rank(planted())
  first = found.iloc[0]
  assert (first["skill"], first["word"]) == ("presence", "yellow")
  assert first["low"] < 0.9 < first["high"] and first["q"] < 1e-6
  assert "yellow" in first["example"]
  # Wrong (each word by itself): presence of circles fails most of the time, too.
  assert "circle" not in set(found["word"])
  assert not ((found["skill"] == "reading") & (found["bound"] > 0.3)).any()


def test_repeats_count_once_and_rare_words_not_at_all():
  lines = [("i", "Is there a zebra?", ["presence"], 1)] * 100
  lines += [("i", f"Is there thing {k}?", ["presence"], 0) for k in range(100)]
  assert "zebra" not in set(modes.rank(rows(lines))["word"])


def test_a_skill_that_fails_as_such_is_a_mode_without_a_word():
  generator = np.random.default_rng(0)
  lines = [
    (f"i{k % 9}", f"{s} {k} {k % 13} thing?", [s], generator.random() < p)
    for s, p in (("hard", 0.8), ("easy", 0.1))
    for k in range(300)
  ]
  first = modes.rank(rows(lines)).iloc[0]
  assert (first["skill"], first["word"], first["n"]) == ("hard", "", 300)


def test_no_questions_no_modes():
  assert modes.rank(planted().iloc[:0]).empty
  assert modes.rank(planted().iloc[:10]).empty


def test_modes_are_matched_with_cells():
  found = modes.rank(planted())
  census = {
    "existence/color=yellow": {"rate": 0.9, "planted": True},
    "existence/shape=circle": {"rate": 0.3, "planted": False},
  }
  matched = modes.match_planted(found, {"presence": "existence"}, census)
  assert matched.loc[0, ["cell", "planted", "census"]].tolist() == [
    "existence/color=yellow",
    True,
    0.9,
  ]


def test_recovery_of_a_perfect_a_merged_and_a_random_taxonomy():
  table = planted()
  table["true_skills"] = table["skills"]
  found = recovery.score(table)
  assert found["ami"] == 1 and abs(found["shuffled"]) < 0.05
  assert found["recall"] == found["precision"] == 1 and not found["missed"]
  merged = table.assign(skills=[["all"]] * len(table), filed="all")
  found = recovery.score(merged)
  assert found["ami"] < 0.01 and len(found["missed"]) == 1
  generator = np.random.default_rng(1)
  guess = generator.choice(["p", "q"], len(table))
  random = table.assign(skills=[[g] for g in guess], filed=guess)
  assert abs(recovery.score(random)["ami"]) < 0.05
  assert recovery.score(table.assign(true_skills=None)) is None
