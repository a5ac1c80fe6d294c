"""A run seen from its files: under way, silent, finished."""

import json
import os
import time

import pandas as pd
import pytest

from fmd_jax import records
from fmd_jax.report import closing, status
from tests.report import fake

CONFIG = {"steps": 40, "methods": ["zero_shot", "grpo"]}


def row(place, image, question, valid=True, correct=False):
  """One row of a (method, step) that the verifier judged."""
  return fake.to_record(
    {
      "method": place[0],
      "split": "train",
      "step": place[1],
      "image_id": image,
      "response_index": 0,
      "slot": 0,
      "status": "ok",
      "question": question,
      "prefix": "what is",
      "answer": "red\x1b[2J",
      **dict.fromkeys(("grammatical", "atomic", "grounded", "objective"), valid),
      "valid": valid,
      "correct": correct,
      "rationale": "grammatical: yes\ncorrect: it is blue",
    },
    "run",
  )


@pytest.fixture
def workdir(tmp_path):
  """zero_shot is through, grpo wrote step 10 just now; two seconds a step."""
  records.write_manifest(
    tmp_path,
    config=CONFIG,
    seeds={},
    models={},
    prompts={},
    argv=["/x/launch/discover.py", "--config=a.py", "--workdir", "b c"],
  )
  for method, steps in (("zero_shot", 40), ("grpo", 11)):
    out = records.Measurements(tmp_path, method)
    for step in range(steps):
      out.write(step, {"reward/mean": step, "grpo/kl": None})
      at = (method, step)
      rows = [
        row(at, f"i{step % 4}", "What is it?"),
        row(at, "i9", "Good?", correct=True),
        row(at, "i9", "Bad? Yes.", valid=False),
      ]
      records.write_shard(tmp_path, method, "train", step, rows)
  age(tmp_path, 0)
  return tmp_path


def age(workdir, seconds):
  """Makes the run so old: its shards two seconds apart, one slow step among them."""
  now = time.time() - seconds
  for path in sorted(workdir.rglob("*"), reverse=True):
    if path.is_file():
      os.utime(path, (now, now))
  for path in (workdir / "records/grpo").iterdir():
    step = int(path.name[5:11])
    when = now - 2 * (10 - step) - (500 if step < 5 else 0)
    os.utime(path, (when, when))


def test_a_run_under_way(workdir):
  now = status.read(workdir)
  assert now.state == "running" and now.quiet < 60
  assert [(m.method, m.done, m.steps) for m in now.methods] == [
    ("zero_shot", 40, 40),
    ("grpo", 11, 40),
  ]
  # The mean would be 52 s: one step waited for 500.
  assert now.seconds == pytest.approx(2.0)
  assert now.left == pytest.approx(2.0 * 29)
  assert now.numbers == {"reward/mean": 5.0}
  # The newest first, each question of an image once, neither right nor invalid ones.
  assert [f["image_id"] for f in now.failures] == ["i2", "i1", "i0"]
  shown = status.text(now)
  assert "grpo: step 11 of 40 (28 %)" in shown
  assert "2.00 s a step, about 0:00:58 left for grpo" in shown
  assert "i2: What is it?" in shown and "verdict: correct: it is blue" in shown
  # What a model says must not clear the reader's terminal.
  assert "\x1b" not in shown


def test_two_hosts_write_a_step(workdir):
  for path in list((workdir / "records/grpo").iterdir()):
    for host in (0, 1):
      name = path.name.replace("host-00000-of-00001", f"host-0000{host}-of-00002")
      target = path.with_name(name)
      target.write_bytes(path.read_bytes())
      os.utime(target, (path.stat().st_mtime, path.stat().st_mtime))
    path.unlink()
  # Counted as two steps a shard each, it would be 0 s or half of it.
  assert status.read(workdir).seconds == pytest.approx(2.0)


def test_a_run_that_was_killed(workdir):
  age(workdir, 3600)
  now = status.read(workdir)
  assert now.state == "quiet"
  shown = status.text(now)
  assert "no sign of life for 1:00:0" in shown
  assert "python -m launch.discover --config=a.py --workdir 'b c'" in shown


def test_finished_and_gone_on_with(workdir):
  age(workdir, 3600)
  (workdir / "metrics.json").write_text("{}")
  now = status.read(workdir)
  assert now.state == "finished" and "Report: " in status.text(now)
  # More steps than before: the metrics are those of the shorter run.
  age(workdir, 0)
  os.utime(workdir / "metrics.json", (time.time() - 99,) * 2)
  assert status.read(workdir).state == "running"


def test_before_the_first_step_and_without_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match="config.json"):
    status.read(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  now = status.read(tmp_path)
  assert (now.state, now.seconds, now.left) == ("running", None, None)
  assert "zero_shot: step 0 of 40 (0 %)" in status.text(now)


def test_last_words(tmp_path):
  found = fake.make_workdir(tmp_path, steps=12)
  text = closing.closing(tmp_path)
  head, first, example, *_ = text.splitlines()
  assert head.startswith("What testbed/answerer gets wrong most, by skill")
  # The worst by construction; ranked by number of failures it would be another.
  assert first.split(":")[0].strip() == fake.WORST and "% wrong [" in first
  assert "It says: green; true: red" in example
  assert (found["question"] + " ").map(lambda q: f"    {q}" in example).any()
  assert f"{tmp_path}/report/index.html" in text

  for path in (tmp_path / "evaluations").iterdir():
    table = pd.read_parquet(path)
    table["correct"] = table["correct"].where(table["correct"].isna(), True)
    table.to_parquet(path)
  assert "No failure of testbed/answerer was found." in closing.closing(tmp_path)
