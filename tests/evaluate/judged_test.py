"""The evaluation: whom it asks about what, once, and what is left after a kill."""

import io
import json
import logging
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from configs import base
from fmd_jax import evaluate, inference, records
from fmd_jax.evaluate import judged
from fmd_jax.inference import Reply
from fmd_jax.types import CRITERIA, ImageExample
from tests.records.shards_test import record
from tests.runs import ROOT

LIMITS = {"max_tokens": 64, "retries": 0}


class Judge:
  """Says that an answer is right when it is the question's last letter."""

  name, revision = "judge", "1"

  def __init__(self, dies_at=None, mute=()):
    self.asked, self._dies_at, self._mute = [], dies_at, mute

  def generate(self, requests):
    if self._dies_at is not None and len(self.asked) + len(requests) > self._dies_at:
      raise KeyboardInterrupt
    return [self._reply(request.fields) for request in requests]

  def _reply(self, fields):
    self.asked.append((fields["question"], fields["answer"]))
    if fields["question"] in self._mute:
      return Reply("I would rather not say.")
    verdict = {k: {"ok": True, "why": "so"} for k in CRITERIA}
    right = fields["question"].endswith(fields["answer"])
    return Reply(json.dumps(verdict | {"correct": {"ok": right, "why": "so"}}))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(judged, "_PART", 4)


@pytest.fixture
def workdir(tmp_path):
  """Two methods, 24 and 12 rows, and 6 of a final policy; every third a repeat."""
  buffer = io.BytesIO()
  Image.new("RGB", (56, 28)).save(buffer, "PNG")
  for image in "ij":
    records.write_image(tmp_path, ImageExample(image, buffer.getvalue()))
  for method, split, steps in (
    ("grpo", "train", 4),
    ("grpo", "heldout", 1),
    ("zero_shot", "train", 2),
  ):
    for step in range(steps):
      rows = [
        record(step, image, slot, method=method, split=split) for image in "ij"
        for slot in range(3)
      ]  # fmt: skip
      asked = [
        ("", None) if (step, k) == (0, 5) else (f"What {step} {k % 4}", "0123"[k % 3])
        for k in range(6)
      ]
      rows = [
        record(
          row.step, row.image_id, row.slot, method=method, split=split,
          question=question, answer=answer, status="ok" if question else "unparsed",
        )
        for row, (question, answer) in zip(rows, asked, strict=True)
      ]  # fmt: skip
      records.write_shard(tmp_path, method, split, step, rows)
  return tmp_path


def run(workdir, judge, sample=0, seed=0, **options):
  plan = evaluate.make_plan(workdir, sample, seed)
  said = []
  evaluate.evaluate(workdir, judge, plan, tell=said.append, **LIMITS, **options)
  return said


def tables(workdir):
  folder = workdir / "evaluations"
  return {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}


def test_every_distinct_question_is_judged_once(workdir):
  """By row it would be 39 calls; by question alone an answer would be lost."""
  judge = Judge()
  (said,) = run(workdir, judge)
  distinct = set()
  for method, split in (("grpo", "train"), ("grpo", "heldout"), ("zero_shot", "train")):
    rows = records.read(workdir, method, split)
    name = method if split == "train" else f"{method}_heldout"
    table = tables(workdir)[name]
    assert len(table) == len(rows)
    for column in ("image_id", "question", "step", "slot"):
      assert table[column].tolist() == rows[column].tolist()
    for row in table.itertuples():
      if not row.question:
        assert row.status == "unparsed" and pd.isna(row.valid)
        continue
      distinct.add((row.image_id, row.question, row.answer))
      assert (row.status, row.valid) == ("ok", True)
      assert row.correct == row.question.endswith(row.answer)
      assert row.evaluator == "judge@1"
  assert len(judge.asked) == len(distinct) < 39
  assert f"{len(distinct):,} calls" in said
  assert "no prices given" in said


def test_a_killed_evaluation_goes_on(workdir, tmp_path):
  """The second process asks for the rest only, and the tables are the same."""
  whole = Judge()
  run(workdir, whole)
  wanted = tables(workdir)
  shutil.rmtree(workdir / "evaluations")
  first, second = Judge(dies_at=9), Judge()
  with pytest.raises(KeyboardInterrupt):
    run(workdir, first)
  assert not tables(workdir)  # half an evaluation is none
  (said,) = run(workdir, second)
  assert len(first.asked) == 8 and "8 of them judged before" in said
  assert first.asked + second.asked == whole.asked
  for name, table in tables(workdir).items():
    pd.testing.assert_frame_equal(table, wanted[name])
  third = Judge()
  run(workdir, third)
  assert not third.asked


def test_another_judge_s_verdicts_are_not_taken(workdir):
  run(workdir, Judge())
  other = Judge()
  other.name = "other"
  run(workdir, other)
  assert other.asked
  assert set(tables(workdir)["grpo"]["evaluator"]) == {"other@1"}
  again = Judge()
  run(workdir, again)
  assert not again.asked


def test_what_was_unscored_is_asked_again(workdir):
  """Unscored is neither wrong nor kept: the next command may find the judge well."""
  run(workdir, Judge(mute={"What 0 0"}))
  table = tables(workdir)["grpo"].set_index("question")
  assert set(table.loc[["What 0 0"], "status"]) == {"unscored"}
  assert table.loc[["What 0 0"], "correct"].isna().all()
  judge = Judge()
  run(workdir, judge)
  assert {question for question, _ in judge.asked} == {"What 0 0"}
  assert (tables(workdir)["grpo"].query("question != ''")["status"] == "ok").all()


def test_a_sample_is_stratified_nested_and_stated(workdir):
  """12 rows in all: 4 of each; 30: the 6 of the smallest stratum, the rest shared."""
  assert evaluate.allocate({"a": 24, "b": 6, "c": 12}, 30) == {"b": 6, "c": 12, "a": 12}
  small, large = (evaluate.make_plan(workdir, n, 3) for n in (12, 30))
  assert {name: len(rows) for name, rows in small.tables.items()} == dict.fromkeys(
    ("grpo", "grpo_heldout", "zero_shot"), 4
  )
  for name, rows in small.tables.items():
    assert rows["place"].is_monotonic_increasing
    assert set(rows["place"]) <= set(large.tables[name]["place"])
  assert [list(t["place"]) for t in evaluate.make_plan(workdir, 12, 3).tables.values()
          ] == [list(t["place"]) for t in small.tables.values()]  # fmt: skip
  other = evaluate.make_plan(workdir, 12, 4)
  assert any(
    list(other.tables[name]["place"]) != list(rows["place"])
    for name, rows in small.tables.items()
  )
  judge = Judge()
  run(workdir, judge, 12, 3)
  assert len(judge.asked) <= 12
  table, whole = tables(workdir)["grpo"], records.read(workdir, "grpo")
  picked = whole.iloc[table["place"]]
  assert picked["question"].tolist() == table["question"].tolist()
  said = json.loads((workdir / "evaluations" / "plan.json").read_text())
  assert (said["sample"], said["seed"], said["evaluator"]) == (12, 3, "judge@1")
  assert said["asked"]["grpo"] == 24 and said["judged"]["grpo"] == 4
  rest = Judge()
  run(workdir, rest)
  assert not set(rest.asked) & set(judge.asked) or len(rest.asked) < 25
  with pytest.raises(ValueError, match="sample of 2"):
    evaluate.make_plan(workdir, 2)


def test_the_sample_is_fair():
  """Each of 10 rows is drawn as often as another; the first 3 of a file never are."""
  hits = [0] * 10
  for seed in range(2000):
    for k in evaluate.draw("grpo", 10, 3, seed):
      hits[k] += 1
  assert min(hits) > 520 and max(hits) < 680


def test_a_budget_stops_before_anything_is_asked(workdir):
  """And names the sample that fits; a limit in dollars without prices is refused."""
  judge = Judge()

  def at_most(price=(0.0, 0.0), sample=0, **limits):
    run(workdir, judge, sample, price=price, allow=lambda cost: cost.check(**limits))

  with pytest.raises(inference.BudgetError, match="--sample=") as error:
    at_most(calls=10)
  fits = int(str(error.value).rpartition("--sample=")[2].split()[0])
  with pytest.raises(inference.BudgetError, match="usd_in"):
    at_most(usd=1.0)
  with pytest.raises(inference.BudgetError, match="USD"):
    at_most(usd=1e-6, price=(1.0, 2.0))
  assert not judge.asked
  at_most(calls=10, sample=fits)
  assert 0 < len(judge.asked) <= 10


def test_the_cost_is_what_it_says(workdir):
  """Per call 2 visual tokens (56 x 28) and a quarter of the prompt's characters."""
  keys = evaluate.make_plan(workdir).keys()
  found = evaluate.estimate(workdir, keys, (4.0, 8.0))
  assert found.calls == len(keys)
  assert found.usd == pytest.approx(
    (4 * found.input_tokens + 8 * found.output_tokens) / 1e6, rel=1e-4
  )
  longer = evaluate.estimate(workdir, [("i", "q" * 400, "a"), ("i", "q" * 800, "a")])
  shorter = evaluate.estimate(workdir, [("i", "q" * 400, "a")] * 2)
  assert longer.input_tokens - shorter.input_tokens == 100


def test_a_budget_that_retries_use_up_keeps_what_was_judged(workdir, tmp_path):
  """Estimates know nothing of retries: the ledger's limit holds anyway."""
  mute, plan = {f"What 0 {k}" for k in range(4)}, evaluate.make_plan(workdir)
  most = len(plan.keys())
  ledger = inference.Ledger(tmp_path / "s.json", calls=most, usd=0.0, prices={})
  judge = Judge(mute=mute)
  limited = inference.BudgetedGenerator(judge, "evaluator", ledger)
  options = {"max_tokens": 64, "retries": 3, "tell": lambda _: None}
  with pytest.raises(inference.BudgetError):
    evaluate.evaluate(workdir, limited, plan, **options)
  assert len(judge.asked) <= most
  well = Judge()
  evaluate.evaluate(workdir, well, plan, **options)
  assert len(well.asked) < most


def test_a_judge_that_made_the_reward_is_named(workdir, caplog):
  judge = Judge()
  judge.name, judge.revision = "v", ""  # the records' verifier
  with caplog.at_level(logging.WARNING, "absl"):
    run(workdir, judge)
  assert "is the verifier" in caplog.text
  caplog.clear()
  with caplog.at_level(logging.WARNING, "absl"):
    run(workdir, Judge())
  assert "verifier" not in caplog.text


def test_the_launcher_s_dry_run_asks_nothing(workdir):
  """It prints the cost, and fails where the budget does not do."""
  (workdir / "config.json").write_text(json.dumps(base.get_config().to_dict()))
  command = [sys.executable, "-m", "launch.evaluate", f"--workdir={workdir}"]
  command += ["--sample=12", "--usd_in=1", "--max_calls=2", "--dry_run"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert "oracle://, 12 questions: at most" in done.stdout and "USD" in done.stdout
  assert done.returncode == 1 and "--sample=2 would fit" in done.stderr
  assert not (workdir / "evaluations").exists()
