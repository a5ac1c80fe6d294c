"""What a look sees, what it measures and when it is an alarm."""

import dataclasses

import numpy as np
import pytest

from fmd_jax.monitor import Options, Watch, gap_interval
from fmd_jax.types import CRITERIA, Answer, Question, Verdict

OPTIONS = Options(
  rows=30, window=20, gap=0.05, prefix=0.6, zero_variance=0.9, checks=8, seed=0,
  prefix_length=2,
)  # fmt: skip
B, G, K = 4, 5, 4


def verdict(valid, correct):
  return Verdict("ok", **dict.fromkeys(CRITERIA, valid), correct=correct)


def slots(step, loophole=0):
  """B·G·K slots; the first `loophole` of each image are called valid and wrong."""
  out = []
  for k in range(B * G * K):
    image, place = divmod(k, G * K)
    said = verdict(True, place >= loophole and k % 2 == 0)
    question = Question(f"i{image}", place // K, place % K, f"w{k} is {step} {place}?")
    out.append((question, Answer("yes", "a"), said))
  return out


class Evaluator:
  """Says of the loophole's questions that they are invalid; counts what it is asked."""

  def __init__(self, loophole=0):
    self.loophole, self.asked = loophole, []

  def __call__(self, keys):
    self.asked += keys
    places = [int(text.rstrip("?").split()[-1]) for _, text, _ in keys]
    numbers = [int(text[1:].split()[0]) for _, text, _ in keys]
    return [
      verdict(place >= self.loophole, k % 2 == 0) for place, k in zip(places, numbers)
    ]


def rewards(flat=0):
  totals = np.random.default_rng(0).random((B, G))
  totals[:flat] = 0.5
  return totals, np.ones((B, G), bool)


def test_judges_that_agree_give_no_alarm():
  ask = Evaluator()
  watch = Watch(ask, OPTIONS)
  for step in range(4, 40, 5):
    numbers, alarms = watch.check(step, slots(step), *rewards())
    assert alarms == [] and numbers["monitor/rows"] == 30
    assert numbers["monitor/valid_gap"] == 0.0 == numbers["monitor/correct_gap"]
    assert numbers["monitor/valid_gap_high"] > 0
  # A small and fixed number of rows, each once, and not the same places each time.
  assert len(ask.asked) == 8 * 30 == len(set(ask.asked))
  places = {step: set() for step in (4, 9)}
  for _, text, _ in ask.asked:
    k, _, step, _ = text[1:].rstrip("?").split()
    if int(step) in places:
      places[int(step)].add(k)
  assert places[4] != places[9]


def test_a_loophole_is_an_alarm_and_a_resumed_watch_the_same():
  """5 of 20 rows: a gap of 25 points. Counted by hand at the first look."""
  ask = Evaluator(5)
  watch, measured = Watch(ask, OPTIONS), []
  for step in (4, 9, 14, 19):
    numbers, alarms = watch.check(step, slots(step, 5), *rewards())
    measured.append({"step": step, "method": "grpo", **numbers})
    if step == 4:
      hacked = sum(int(text.rstrip("?").split()[-1]) < 5 for _, text, _ in ask.asked)
      assert numbers["monitor/valid_more"] == hacked > 0
      assert numbers["monitor/valid_less"] == 0
      # Of the answers only where both call the question valid.
      assert numbers["monitor/correct_same"] == 30 - hacked
      assert numbers["monitor/valid_gap"] == pytest.approx(hacked / 30)
  assert numbers["monitor/alarm_valid"] == 1.0 and len(alarms) == 1
  assert "the verifier calls valid" in alarms[0] and "of 120 rows" in alarms[0]
  assert numbers["monitor/alarm_correct"] == 0.0
  # 95 % for both ends of both gaps at the 8 looks of the run together.
  more = sum(row["monitor/valid_more"] for row in measured)
  ends = gap_interval(more, 120 - more, 0, 0.05 / (4 * 8))
  assert numbers["monitor/valid_gap_low"] == ends[0]
  assert numbers["monitor/valid_gap_high"] == ends[1]
  # From measurements.jsonl, where other steps have rows too.
  past = [*measured[:3], {"step": 15, "method": "grpo", "rollout/fdr": 0.5}]
  again = Watch(Evaluator(5), OPTIONS, past)
  assert again.check(19, slots(19, 5), *rewards()) == (numbers, alarms)
  # What lies before the window counts no longer.
  late = Watch(Evaluator(), OPTIONS, measured)
  numbers, alarms = late.check(39, slots(39), *rewards())
  assert alarms == [] and numbers["monitor/valid_gap"] == 0.0


def test_answers_called_wrong_are_a_gap_of_their_own():
  """The verifier calls a quarter of the right answers wrong; valid agrees."""
  watch = Watch(Evaluator(), OPTIONS)
  for step in (4, 9, 14, 19):
    numbers, alarms = watch.check(step, slots(step, 10), *rewards())
  assert numbers["monitor/valid_gap"] == 0.0
  assert 0.15 < numbers["monitor/correct_gap"] < 0.35
  assert len(alarms) == 1 and "calls wrong" in alarms[0]


def test_collapse_is_an_alarm():
  alike = [
    (dataclasses.replace(q, text=f"what size is {k}?") if k % 4 else q, *more)
    for k, (q, *more) in enumerate(slots(4))
  ]
  silent = lambda keys: [Verdict("unscored")] * len(keys)  # noqa: E731
  numbers, alarms = Watch(silent, OPTIONS).check(4, alike, *rewards(flat=4))
  assert numbers["monitor/prefix_share"] == 0.75
  assert numbers["monitor/zero_variance"] == 1.0
  assert len(alarms) == 2 and "begin alike: 75%" in alarms[0]
  # An evaluator that fails is no disagreement.
  assert numbers["monitor/rows"] == 0
  assert numbers["monitor/alarm_valid"] == 0.0
  assert np.isnan(numbers["monitor/valid_gap"])
  totals, mask = rewards(flat=3)
  numbers, alarms = Watch(silent, OPTIONS).check(4, slots(4), totals, mask)
  assert numbers["monitor/zero_variance"] == 0.75 and alarms == []
