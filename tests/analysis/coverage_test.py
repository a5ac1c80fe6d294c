"""Richness and rarefaction against textbook numbers and plain enumeration."""

import itertools

import numpy as np
import pandas as pd
import pytest

from fmd_jax.analysis import coverage
from tests.analysis.tables import rows


def test_chao1_by_hand():
  # 3 kinds once, 1 twice, 1 five times: 5 + 3*2 / (2*2) = 6.5.
  found = coverage.chao1(np.array([1, 1, 1, 2, 5]))
  assert found["seen"] == 5 and found["estimate"] == 6.5
  assert found["coverage"] == pytest.approx(1 - 3 / 10)
  # Chao 1987 by hand: variance of the bias-corrected form.
  variance = 1.5 + 3 * 25 / (4 * 4) + 9 * 1 * 4 / (4 * 16)
  factor = np.exp(1.959964 * np.sqrt(np.log(1 + variance / 1.5**2)))
  assert found["low"] == pytest.approx(5 + 1.5 / factor)
  assert found["high"] == pytest.approx(5 + 1.5 * factor)
  assert 5 < found["low"] < 6.5 < found["high"]


def test_nothing_rare_means_nothing_is_left():
  found = coverage.chao1(np.array([2, 7, 9]))
  assert (found["estimate"], found["low"], found["high"]) == (3, 3, 3)
  assert coverage.chao1(np.array([], int))["estimate"] == 0


def test_chao1_finds_what_was_not_seen():
  # 400 equally likely kinds, 500 draws: some 29 % stay unseen.
  drawn = np.random.default_rng(0).integers(0, 400, 500)
  counts = np.unique(drawn, return_counts=True)[1]
  found = coverage.chao1(counts)
  assert found["seen"] < 300 and found["low"] < 400 < found["high"]


def test_rarefaction_is_the_mean_over_all_samples():
  counts = np.array([3, 2, 1])
  items = [0, 0, 0, 1, 1, 2]
  for n in range(1, 7):
    exact = np.mean([len(set(own)) for own in itertools.combinations(items, n)])
    assert coverage.rarefaction(counts, np.array([n]))[0] == pytest.approx(exact)


def test_repeats_of_a_question_count_once():
  # Wrong: a questioner that repeats itself looks as if it had seen all there is.
  table = rows([("i", "q", ["a"], 0)] * 5 + [("i", "r", ["b"], 1)])
  found = coverage.richness(table).set_index("kind")
  assert found.loc["skills", "n"] == 2 and found.loc["skills", "coverage"] == 0
  assert found.loc["skills that fail", "seen"] == 1
  curve = coverage.curves(table)
  last = curve[curve["kind"] == "skills"].iloc[-1]
  assert last["n"] == 2 and last["expected"] == pytest.approx(2)
  assert isinstance(curve, pd.DataFrame)
