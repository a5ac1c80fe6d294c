"""Fresh against fresh: the level of the test, its power, and its oracles."""

import itertools

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from fmd_jax import metrics
from fmd_jax.metrics import paired

ASKS = 5


def population(rng, n=160, images=40):
  """Failure probabilities: sure ones, coins and rare ones, alike within an image."""
  image = rng.integers(0, images, n)
  hardness = rng.normal(0, 1.5, images)[image] + rng.normal(0, 1.5, n)
  return image, 1 / (1 + np.exp(-hardness))


def suite(rng):
  """Questions that failed when they were discovered, and five groups of them."""
  image, p = population(rng, 400)
  found = rng.random(len(p)) < p
  image, p = image[found][:160], p[found][:160]
  group = rng.integers(0, 5, len(p))
  # One group lies on a few images, one is made of the surest failures.
  group[image < 6] = 0
  group[p > 0.95] = 1
  groups = {f"g{k}": group == k for k in range(5)}
  return [f"i{i}" for i in image], p, groups


def answers(rng, p):
  return rng.binomial(ASKS, p) / ASKS


def significant(before, after, images, groups, flips=499):
  table = metrics.changes(before, after, images, groups, flips=flips, resamples=2)
  return any(row["q"] is not None and row["q"] <= 0.05 for row in table), table[0]["p"]


def level(repeats, flips, naive=False):
  """Shares of repeats in which something, and all questions, differ significantly."""
  any_, overall = 0, 0
  for seed in range(repeats):
    rng = np.random.default_rng([seed, 11])
    images, p, groups = suite(rng)
    before = np.ones(len(p)) if naive else answers(rng, p)
    found, own = significant(before, answers(rng, p), images, groups, flips)
    any_, overall = any_ + found, overall + (own <= 0.05)
  return any_ / repeats, overall / repeats


def test_the_same_model_differs_in_at_most_6_5_percent_of_1000_replays():
  any_, overall = level(1000, 999)
  assert any_ <= 0.065
  # Not by never saying anything.
  assert 0.03 <= overall <= 0.065


def test_the_same_model_rarely_differs_from_itself():
  """The same in small, and what it is not: compared with the answers by which the
  questions were found, an unchanged model looks repaired nearly always."""
  any_, overall = level(120, 199)
  assert any_ <= 0.12 and overall <= 0.12
  assert level(20, 199, naive=True)[0] > 0.9


def test_a_repaired_group_is_fixed_and_a_broken_one_newly_failing():
  rng = np.random.default_rng(0)
  images, p, groups = suite(rng)
  after = np.where(
    groups["g1"], 0.02, np.where(groups["g2"], np.minimum(1, p + 0.5), p)
  )
  table = metrics.changes(answers(rng, p), answers(rng, after), images, groups)
  verdicts = {row["name"]: row["verdict"] for row in table}
  assert verdicts["g1"] == "fixed" and verdicts["g2"] == "newly failing"
  assert {verdicts["g0"], verdicts["g3"], verdicts["g4"]} <= {
    "no change",
    "still failing",
  }
  for row in table:
    counts = [row[k] for k in ("fixed", "still_failing", "newly_failing", "passing")]
    assert sum(counts) == row["n"]
    if row["low"] is not None:
      assert row["low"] <= row["difference"] <= row["high"]


def test_flips_agree_with_all_sign_patterns():
  rng = np.random.default_rng(1)
  sums = rng.normal(size=(9, 3)) + 0.5
  patterns = np.array(list(itertools.product((-1, 1), repeat=9)))
  exact = (np.abs(patterns @ sums) >= np.abs(sums.sum(0)) - 1e-9).mean(0)
  assert paired.sign_flips(sums, 40_000, 0) == pytest.approx(exact, abs=0.01)


def test_one_answer_and_question_an_image_is_mcnemar():
  rng = np.random.default_rng(2)
  before, after = (rng.random(60) < 0.6).astype(float), (rng.random(60) < 0.35) * 1.0
  table = [[(before * after).sum(), (before * (1 - after)).sum()]]
  table += [[((1 - before) * after).sum(), ((1 - before) * (1 - after)).sum()]]
  wanted = mcnemar(np.array(table), exact=True).pvalue
  p = paired.sign_flips((after - before)[:, None], 40_000, 0)
  assert p == pytest.approx(wanted, abs=0.01)


def test_questions_of_one_image_count_as_one():
  """20 questions about one picture that all got worse are one picture: p is 1. By
  question it would be 2^-19."""
  before, after = np.zeros(20), np.ones(20)
  (row,) = metrics.changes(before, after, ["i"] * 20, {})
  assert row["p"] == 1.0 and row["low"] is None
  assert row["verdict"] == "still failing"  # not "newly": nobody knows of others
  table = metrics.changes(before, after, list("abcdefghijklmnopqrst"), {})
  assert table[0]["p"] < 0.001 and table[0]["verdict"] == "newly failing"


def test_few_questions_are_shown_and_not_tested():
  few = {"few": np.arange(40) < 4}
  table = metrics.changes(np.zeros(40), np.ones(40), [f"{i}" for i in range(40)], few)
  assert table[1]["n"] == 4 and table[1]["q"] is None
  assert table[1]["verdict"] == "still failing"
