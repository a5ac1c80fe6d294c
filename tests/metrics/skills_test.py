"""Skills: counts, coverage, and rates that were not chosen for being high."""

import numpy as np
import pandas as pd

from fmd_jax import metrics
from tests.metrics.frames import SKILLS, frame, one


def test_n_skills():
  """More than 20: 21 counts, 20 does not; a skill twice in one question is one."""
  skills = [["a", "a", "b"]] * 20 + [["b"]]
  assert metrics.n_skills(skills) == 1
  assert metrics.n_skills(skills, more_than=19) == 2
  assert metrics.n_skills([]) == 0


def test_skill_coverage():
  """(2 + 1 + 0) / 3; without the distinct 5/3, without the empty one 1.5."""
  assert metrics.skill_coverage([["a", "b", "b", "a"], ["a"], []]) == 1.0
  assert metrics.skill_coverage([]) is None


def test_questions_without_skills_are_left_out():
  """Not yet annotated (null) is not "needs no skill": coverage 2, not 1.33."""
  df = pd.DataFrame([one() | {"skills": s} for s in (["a", "b"], None, ["a", "c"])])
  out = metrics.summarise(df, resamples=10, common_n=2)["skills"]
  assert out["coverage"] == 2.0
  assert metrics.skill_table(df, more_than=0)["n"].sum() == 4
  arrays = df.assign(skills=[np.array(["a"]), None, np.array(["a", "c"])])
  assert metrics.summarise(arrays, resamples=10)["skills"]["coverage"] == 1.5
  assert metrics.summarise(df.assign(skills=None), resamples=10)["skills"] is None


def test_table_equals_a_loop():
  """n, failures and rate of each skill; invalid rows and repeats do not count."""
  df = frame(0)
  table = metrics.skill_table(df, resamples=50).set_index("skill")
  assert set(table.index) == set(SKILLS)
  for skill in SKILLS:
    n = failures = 0
    for row in df.to_dict("records"):
      if row["status"] == "ok" and row["valid"] and skill in row["skills"]:
        n += 1
        failures += not row["correct"]
    assert (table["n"][skill], table["failures"][skill]) == (n, failures)
    assert table["fdr"][skill] == failures / n
    assert table["low"][skill] < failures / n < table["high"][skill]


def test_halves_share_no_image():
  """ranking_n + estimate_n = n, split by image; and the rank is the ranking half's.

  Split by row, an image would be in both.
  """
  df = frame(1)
  table = metrics.skill_table(df, resamples=10, more_than=0)
  assert (table["ranking_n"] + table["estimate_n"] == table["n"]).all()
  assert table["ranking_fdr"].is_monotonic_decreasing
  assert table["rank"].tolist() == list(range(1, len(table) + 1))
  alone = pd.DataFrame([one("i") | {"skills": ["a"]} for _ in range(30)])
  alone = metrics.skill_table(alone, resamples=10)
  assert (alone["ranking_n"][0], alone["estimate_n"][0]) == (30, 0)
  assert alone["estimate"].isna().all()


def test_row_order_does_not_matter():
  """Halves and draws follow the image ids, not the order of the rows."""
  df = frame(2)
  shuffled = df.sample(frac=1.0, random_state=1)
  got = metrics.skill_table(shuffled, resamples=20)
  pd.testing.assert_frame_equal(got, metrics.skill_table(df, resamples=20))


def test_the_estimate_is_not_the_winner_s_luck():
  """60 skills, all failing at .3: the top one's `estimate` is right on average.

  The ranking half shows the maximum of 60 noisy rates, about .5.
  """
  tops, estimates = [], []
  for seed in range(30):
    generator = np.random.default_rng(seed)
    n = 3000
    df = pd.DataFrame(
      {
        "image_id": [f"i{i % 300}" for i in range(n)],
        "status": "ok",
        "valid": True,
        "correct": generator.random(n) > 0.3,
        "skills": [[f"s{i}"] for i in generator.integers(0, 60, n)],
      }
    )
    top = metrics.skill_table(df, resamples=2, seed=seed).iloc[0]
    tops.append(top["ranking_fdr"])
    estimates.append(top["estimate"])
  assert np.mean(tops) > 0.45
  assert abs(np.mean(estimates) - 0.3) < 0.05


def test_few_questions_give_an_empty_table():
  df = pd.DataFrame([one() | {"skills": ["a"]}])
  table = metrics.skill_table(df)
  assert table.empty
  assert "estimate" in table
