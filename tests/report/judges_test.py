"""The judges in the report: beside people, and beside each other while training."""

import json

import numpy as np
import pandas as pd

from fmd_jax import metrics, monitor, records, report, trust
from fmd_jax.report import judges
from fmd_jax.report.reading import read_run


def source_of(workdir):
  with open(report.build(workdir), encoding="utf-8") as file:
    return file.read()


def measure_judge(workdir, se=0.7, sp=0.9):
  """calibration.json of 300 labelled questions of the run, by chance at these rates."""
  run, generator = read_run(workdir), np.random.default_rng(0)
  rows = run.evaluations[run.evaluations["status"] == "ok"]
  rows = rows.sample(300, random_state=0, replace=True).reset_index(drop=True)
  wrong = generator.random(300) < 0.5
  called = np.where(generator.random(300) < np.where(wrong, se, sp), wrong, ~wrong)
  valid = generator.random(300) < 0.8
  items = rows[["image_id", "method"]].assign(
    judge=run.model("evaluator", "the judge"),
    valid=valid ^ (generator.random(300) < 0.1),
    correct=~called,
    true_valid=valid,
    true_correct=~wrong,
    band="short",
  )
  found = trust.calibrate(items)
  trust.write_calibration(workdir, found)
  return found


def test_every_skill_has_its_rate_without_the_judges_errors(a_copy):
  # Wrong: raw rates only, or of one method.
  title = 'data-label="The judge\'s errors taken out"'
  assert title not in source_of(a_copy)
  assert judges.corrected_groups(read_run(a_copy)) == {}
  found = measure_judge(a_copy)
  run = read_run(a_copy)
  groups = judges.corrected_groups(run)
  rows = run.evaluations.drop_duplicates(["image_id", "question"])
  rows = rows.assign(band=metrics.difficulty(rows))
  (known,) = found["judges"].values()
  want = metrics.corrected(rows, known, more_than=0)["skills"]
  assert set(groups) == set(want) and groups
  for name, ends in want.items():
    assert groups[name].text == f"{ends['value'] * 100:.1f}%"
    assert groups[name].between == f"{ends['low'] * 100:.1f}–{ends['high'] * 100:.1f}"
  source = source_of(a_copy)
  assert source.count(title) >= len(want)
  # Each judge by method and difficulty, with intervals.
  part = source[source.index('id="judges"') :]
  part = part[: part.index("</section>")]
  share = known["methods"]["grpo"]["correct"]["sensitivity"]
  assert f"{share['value'] * 100:.1f}%" in part and f"{share['n']:,} labels" in part
  assert "difficulty: short" in part and "RL (GRPO)" in part


def test_alarms_stand_on_top(a_copy):
  # Wrong: they are in a log that nobody reads.
  assert "Alarm." not in source_of(a_copy)
  path = a_copy / "measurements.jsonl"
  raised = dict.fromkeys((f"monitor/alarm_{name}" for name in monitor.ALARMS), 0.0)
  gaps = {f"monitor/valid_gap{end}": x for end, x in (("", 0.3), ("_low", 0.2))}
  gaps["monitor/valid_gap_high"] = 0.4
  with path.open("a") as file:
    for step, flag in ((4, 0.0), (9, 1.0), (14, 1.0)):
      row = {"step": step, "method": "grpo", **raised, **gaps}
      file.write(json.dumps(row | {"monitor/alarm_valid": flag}) + "\n")
  assert isinstance(records.read_measurements(a_copy), pd.DataFrame)
  (said,) = judges.alarms(read_run(a_copy))
  assert said == (
    "While RL (GRPO) trained, from step 9 on: questions that the verifier calls valid "
    "and the evaluator does not, 30% more than the other way round (20% to 40%); 2 of "
    "3 looks."
  )
  assert said in source_of(a_copy).split("</header>")[0]
