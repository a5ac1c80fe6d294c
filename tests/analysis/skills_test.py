"""Tables 3, 8 and 9, figures 6 and 7."""

import pandas as pd
import pytest

from fmd_jax.analysis import skills
from tests.analysis.tables import rows


def asked(arm, method, skill, n, failures, **more):
  lines = [(f"i{k % 7}", f"{skill} {k}", [skill], k < failures) for k in range(n)]
  return rows(lines, arm=arm, method=method, **more)


def test_exclusive_skills():
  table = pd.concat(
    [
      asked("zero_shot", "zero_shot", "shared", 50, 10),
      asked("zero_shot", "zero_shot", "missed", 30, 6),
      asked("zero_shot", "zero_shot", "found", 20, 20),
      asked("grpo", "grpo", "shared", 50, 40),
      asked("grpo", "grpo", "found", 40, 30),
      asked("grpo", "grpo", "deep", 25, 20),
      asked("sft_then_grpo", "sft_then_grpo", "found", 30, 15),
    ]
  )
  found = skills.exclusive(table)
  ours = found[found["section"] == "only RL"]
  # "found" has exactly 20 questions in zero_shot: not more than 20, so not asked about.
  assert ours[["skill", "arm"]].to_numpy().tolist() == [
    ["deep", "grpo"],
    ["found", "grpo"],
    ["found", "sft_then_grpo"],
    ["average", ""],
  ]
  # The mean over skills: of .8 and the mean of .75 and .5.
  assert ours["fdr"].iloc[-1] == pytest.approx((0.8 + 0.625) / 2)
  missed = found[found["section"] == "missed by RL"]
  assert missed["skill"].tolist() == ["missed", "average"]
  assert missed["fdr"].tolist() == pytest.approx([0.2, 0.2])
  assert skills.exclusive(table[table["arm"] == "grpo"]).empty


def test_rankings_across_answerers():
  # Failures of 3 answerers: the paper's row 58.2, 44.4, 12.2 has sigma 23.6.
  parts, answerer = [], []
  for skill, rates in {
    "resolved": (58.2, 44.4, 12.2),
    "hard": (60, 55, 50),
    "easy": (1, 2, 3),
  }.items():
    for name, rate in zip("abc", rates):
      parts.append(asked("grpo", "grpo", skill, 1000, round(10 * rate)))
      answerer += [name] * 1000
  parts.append(asked("grpo", "grpo", "only a", 100, 100))
  answerer += ["a"] * 100
  found = skills.across_answerers(pd.concat(parts), answerer)
  hard = found[found["ranking"] == "universally hard"].drop_duplicates("skill")
  assert hard["skill"].tolist() == ["hard", "resolved", "easy"]
  assert hard["score"].tolist() == pytest.approx([0.5, 0.122, 0.01])
  specific = found[found["ranking"] == "model-specific"].drop_duplicates("skill")
  assert specific["skill"].tolist() == ["resolved", "hard", "easy"]
  assert specific["score"].iloc[0] == pytest.approx(0.236, abs=5e-4)
  # Wrong: a skill that one answerer was never asked about takes part.
  assert "only a" not in set(found["skill"])
  assert len(found) == 2 * 3 * 3
  assert skills.across_answerers(parts[0], ["a"] * 1000).empty


def test_skills_and_combinations_at_a_common_number():
  # Zero Shot asks 10 times as much: at equal numbers it has no more.
  one = asked("grpo", "grpo", "a", 40, 10)
  many = pd.concat(
    [asked("zero_shot", "zero_shot", s, 100, 10) for s in ("a", "b", "c")]
  )
  table = pd.concat([one, many], ignore_index=True)
  found = skills.skills_per_method(table).set_index("arm")
  assert found["skills"].to_dict() == {"zero_shot": 3, "grpo": 1}
  assert (found["common_n"] == 40).all() and found.loc["zero_shot", "rarefied"] < 1.5
  assert found.loc["zero_shot", "skills_low"] >= 2
  found = skills.combinations(table).set_index("arm")
  assert found.loc["zero_shot", ["combinations", "rarefied"]].tolist() == [3, 3]


def test_complexity_shares():
  lines = [("i", "a", "x", 0), ("i", "b", "xy", 0), ("j", "c", "vwxyz", 0)]
  found = skills.complexity(rows(lines)).set_index("skills")["share"]
  assert found["1"] == found["2"] == found["4+"] == pytest.approx(1 / 3)
  assert found["3"] == 0 and found["mean"] == pytest.approx(8 / 3)
