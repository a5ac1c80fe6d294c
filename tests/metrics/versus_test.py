"""One kind of method against the other in a grid, and the table's other forms."""

import numpy as np
import pandas as pd
import pytest

from fmd_jax.metrics import grid, layout, versus
from tests.metrics.frames import frame

METHODS = ("zero_shot", "conme", "grpo")


def embed(texts):
  return np.eye(len(texts), dtype=np.float32)


def asked(method, rows, seed, calls=None):
  return grid.Asked(method, seed, method, "after", rows, {}, calls)


@pytest.fixture(scope="module")
def runs():
  rates = {"zero_shot": 0.2, "conme": 0.3, "grpo": 0.6}
  return [
    asked(method, frame(seed=10 * seed + i, images=30, fdr=rates[method]), seed, 500)
    for seed in (0, 1)
    for i, method in enumerate(METHODS)
  ]


def skill_counts(rows):
  """By a plain loop."""
  out = {}
  for row in rows.itertuples():
    if row.status == "ok" and row.valid and row.skills is not None:
      for skill in set(row.skills):
        n, failures = out.get(skill, (0, 0))
        out[skill] = n + 1, failures + (not row.correct)
  return out


def test_skills_are_counted_by_question(runs):
  rows = runs[0].rows
  # A skill named twice in one question is one question's.
  rows = rows.assign(skills=[s and [*s, s[0]] for s in rows["skills"]])
  found = versus.by_skill(rows)
  assert {s: tuple(v) for s, v in zip(found.index, found.to_numpy(), strict=True)} == (
    skill_counts(rows)
  )


def test_exclusive_skills_are_those_the_other_kind_lacks():
  def counts(**n):
    return pd.DataFrame({"n": n, "failures": dict.fromkeys(n, 1)})

  own = counts(a=21, b=50, c=20, d=30)
  others = [counts(a=20, b=3), counts(b=21)]
  # a: they have it, but not often enough; c: we have not.
  assert list(versus.exclusive(own, others).index) == ["a", "d"]
  assert versus.rivals("grpo", METHODS, ("grpo",)) == ["zero_shot", "conme"]
  assert versus.rivals("conme", METHODS, ("grpo",)) == ["grpo"]


def test_rl_against_each_other_method_seed_by_seed(runs):
  table = grid.make_table(runs, embed, group=("grpo",), about="Of a test.")
  assert [(p["row"], p["other"]) for p in table["versus"]] == [
    ("grpo", "zero_shot"),
    ("grpo", "conme"),
  ]
  rows = {(row["row"], row["seed"]): row for row in table["rows"]}
  for pair in table["versus"]:
    for seed, ratio in zip(pair["seeds"], pair["each"], strict=True):
      wanted = (
        rows["grpo", seed]["fdr"]["value"] / rows[pair["other"], seed]["fdr"]["value"]
      )
      assert ratio["value"] == pytest.approx(wanted)
      assert ratio["low"] < wanted < ratio["high"]
    # The whole encloses every seed: its lower end above 1 means that all are.
    assert pair["fdr_ratio"]["low"] == min(cell["low"] for cell in pair["each"])
  own = rows["grpo", 0]
  assert own["failures_per_1000"]["value"] == pytest.approx(
    own["failures"]["value"] * 2
  )
  rated = [f / n for n, f in skill_counts(runs[2].rows).values() if n > 100]
  assert own["skill_fdr"]["value"] == (pytest.approx(np.mean(rated)) if rated else None)
  # Without a group nobody is compared, and nothing is exclusive.
  plain = grid.make_table(runs, embed)
  assert (
    plain["versus"] == [] and plain["means"][0]["exclusive_skills"]["value"] is None
  )


def test_the_table_in_three_forms(runs):
  paper = {"grpo": {"qvr": 0.8344, "skills": 126}}
  table = grid.make_table(
    runs, embed, paper=paper, group=("grpo",), columns=("qvr", "skills"), about="Tiny."
  )
  text = layout.markdown(table)
  # Labelled as what they are, and beside ours, never among them.
  assert text.startswith("Tiny.\n")
  assert "| grpo, the paper |  | 0.834 | 126.0 |" in text
  assert "| row | seed | QVR | # Skills |" in text
  assert "after, against the other methods" in text
  lines = layout.long(table)
  assert list(lines)[-1] == "paper"
  one = lines[(lines["row"] == "grpo") & (lines["metric"] == "skills")]
  assert one["paper"].tolist() == [126.0] and one["seeds"].tolist() == [2]
  assert lines.loc[lines["metric"] == "fdr_ratio:conme", "mean"].iloc[0] > 1
  assert "nan" not in text.lower()
  tex = layout.latex(table)
  assert r"zero\_shot & " in tex and r"\# Skills" in tex
  assert r"grpo, the paper & 0.834 & 126.0 \\" in tex
  assert tex.count(r"\begin{tabular}{lrr}") == tex.count(r"\end{tabular}") == 1
