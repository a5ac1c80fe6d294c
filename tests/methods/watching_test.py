"""The monitor in a training: who is asked, what is kept, and whether it ends."""

import json
import logging
import types

import pandas as pd
import pytest

from configs import base
from fmd_jax import discover, inference, monitor, records
from fmd_jax.methods.watching import Watching
from fmd_jax.stopping import Alarmed
from tests.kill_and_resume import differences
from tests.monitor import watch_test
from tests.runs import ROOT, played_config

REFUSES = f"scripted://{ROOT / 'tests' / 'players.py'}:refuse"


def a_run(workdir, ask, **changes):
  config = base.get_config()
  config.steps, config.monitor.rows = 40, 30
  config.update_from_flattened_dict(changes)
  judges = {"verifier": "v@1", "evaluator": "e@1"}
  return types.SimpleNamespace(
    config=config, workdir=workdir, models=judges, evaluator=ask
  )


def a_step(step, loophole=0):
  totals, mask = watch_test.rewards()
  slots = watch_test.slots(step, loophole)
  return types.SimpleNamespace(slots=slots, rewards=totals, mask=mask)


def test_it_looks_when_it_is_time_and_goes_on_from_the_measurements(tmp_path, caplog):
  run = a_run(tmp_path, watch_test.Evaluator(5), **{"monitor.stop": True})
  whole = Watching(run, "grpo", 0)
  measured = records.Measurements(tmp_path, "grpo")
  other = records.Measurements(tmp_path, "zero_shot")
  found = []
  for step in range(20):
    whole.check()
    found.append(whole.look(step, a_step(step, 5)))
    measured.write(step, {"rollout/fdr": 0.5, **found[-1]})
    other.write(step, {"rollout/fdr": 0.5})
    assert bool(found[-1]) == (step in (4, 9, 14, 19))
    if any(found[-1].get(f"monitor/alarm_{name}") for name in monitor.ALARMS):
      break
  assert step == 9 and "step 9 of grpo: questions that the verifier" in caplog.text
  with pytest.raises(Alarmed, match="step 9 of grpo.*monitor.stop=False"):
    whole.check()
  # Killed before that look, it finds the same; killed after it, it knows.
  again = Watching(run, "grpo", 9)
  again.check()
  assert again.look(9, a_step(9, 5)) == found[9]
  with pytest.raises(Alarmed, match="step 9 of grpo"):
    Watching(run, "grpo", 10).check()
  run.config.monitor.stop = False
  Watching(run, "grpo", 10).check()


def test_who_only_looks_on_ends_no_training(tmp_path, caplog):
  def fails(keys):
    raise inference.BudgetError("no calls are left")

  run = a_run(tmp_path, fails, **{"monitor.stop": True})
  watching = Watching(run, "grpo", 0)
  assert watching.look(4, a_step(4)) == {} and "no calls are left" in caplog.text
  watching.check()


def test_without_an_independent_evaluator_there_is_no_monitor(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  ask = watch_test.Evaluator(5)
  run = a_run(tmp_path, ask)
  run.models["evaluator"] = "v@1"
  assert Watching(run, "grpo", 0).look(4, a_step(4)) == {} and not ask.asked
  assert "the evaluator is the verifier" in caplog.text
  off = Watching(a_run(tmp_path, ask, **{"monitor.every": 0}), "grpo", 0)
  assert off.look(4, a_step(4)) == {} and not ask.asked


@pytest.mark.parametrize(
  ("key", "value", "expected"),
  [
    ("every", -1, "config.monitor.every is -1; it must be at least 0"),
    ("rows", 0, "config.monitor.rows is 0; it must be at least 1"),
    ("gap", 5.0, "config.monitor.gap is 5.0; it can be 0 to 1"),
  ],
)
def test_what_cannot_work_is_refused(key, value, expected):
  config = played_config(**{f"monitor.{key}": value})
  with pytest.raises(ValueError, match=expected):
    discover.check(config)


@pytest.mark.slow
def test_a_stopped_training_goes_on_exactly_and_pays_once(tmp_path):
  """The evaluator refuses all questions: an alarm at the first look."""
  changes = {"roles.evaluator": REFUSES, "monitor.every": 1, "methods": ("grpo",)}
  whole, other = tmp_path / "whole", tmp_path / "other"
  discover.discover(played_config(**changes), whole)
  measured = records.read_measurements(whole, "grpo")
  assert measured["monitor/alarm_valid"].tolist() == [1.0] * 3
  for _ in range(2):  # again: it ends where it was
    with pytest.raises(Alarmed, match="step 0 of grpo"):
      discover.discover(played_config(**changes, **{"monitor.stop": True}), other)
    assert records.steps(other, "grpo") == [0]
  discover.discover(played_config(**changes), other)
  assert differences(whole, other) == []
  # Each distinct (image, question, answer) once, by whomever it was wanted.
  rows = pd.concat(
    pd.read_parquet(path) for path in (whole / "evaluations").glob("*.parquet")
  )
  rows = rows[rows["status"] != "unparsed"]
  distinct = rows.drop_duplicates(["image_id", "question", "answer"])
  spent = json.loads((whole / "spending.json").read_text())
  assert spent["evaluator"]["calls"] == len(distinct)
