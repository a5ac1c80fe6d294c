"""Tiers: what each check concludes, what is unscored, what is asked twice."""

import io
import json
import pathlib
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmd_jax import confirm, evaluate, inference, metrics, records, report
from fmd_jax.confirm import ladder
from fmd_jax.inference import Reply
from fmd_jax.records.writer import write_parquet
from fmd_jax.types import CRITERIA, ImageExample
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.paraphrase import paraphrase
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import sample_scene
from tests import failing_run
from tests.runs import ROOT

EMBEDDER = f"scripted://{ROOT / 'tests' / 'players.py'}:embed"
SETTINGS = confirm.Settings(
  samples=4, temperature=1.0, guesses=2, answer_tokens=8, max_tokens=64, retries=0,
  seed=3,
)  # fmt: skip
# A question is named after what happens to it; "right" is the truth of all of them.
ENDS = {
  "plain?": (5, False),
  "greedy right?": (1, False),
  "one of four wrong?": (1, False),
  "two of four wrong?": (5, False),
  "two wrong, one mute?": (5, False),
  "one wrong, one mute?": (1, True),
  "greedy mute?": (1, True),
  "reworded right?": (2, False),
  "reworded otherwise?": (2, True),
  "no words?": (2, True),
  "second says right?": (3, False),
  "second says invalid?": (3, False),
  "second mute?": (3, True),
  "guessable?": (4, False),
  "guess mute?": (4, True),
  "ambiguous?": (4, False),
  "guessable, second mute at last?": (4, False),
}
SAMPLED = {"one of four wrong?": 1, "two of four wrong?": 2, "two wrong, one mute?": 2}
SAMPLED |= {"one wrong, one mute?": 1}


class Player:
  """One model of the four; `asked` is what it was asked."""

  revision = "1"

  def __init__(self, name):
    self.name, self.asked, self.dies_after = name, [], None

  def generate(self, requests):
    if self.dies_after is not None and len(self.asked) >= self.dies_after:
      raise KeyboardInterrupt
    self.asked += [dict(request.fields) for request in requests]
    return [getattr(self, f"_{self.name}")(request) for request in requests]

  def _answerer(self, request):
    question, n = request.fields["question"], request.sample
    if not request.images:
      right = question.startswith("guessable") or (question == "guess mute?" and not n)
      mute = question == "guess mute?" and n
      return Reply("", error="down") if mute else Reply("right" if right else "wrong")
    if not request.temperature:
      if question == "greedy mute?":
        return Reply("", error="down")
      right = question in ("greedy right?", "Thus: reworded right?")
      return Reply("right" if right else "wrong")
    if "mute?" in question and n == 3 and "one mute" in question:
      return Reply("", error="down")
    return Reply("wrong" if n < SAMPLED.get(question, 4) else "right")

  def _judge(self, request):
    return self._verdict(request, request.fields.get("answer") == "right")

  def _second(self, request):
    question = request.fields["question"]
    right = request.fields.get("answer") == "right" or question == "second says right?"
    return self._verdict(request, right)

  def _verdict(self, request, right):
    question = request.fields["question"]
    second = self.name == "second"
    if request.fields.get("task") == "answer":
      if second and question == "guessable, second mute at last?":
        return Reply("", error="down")
      return Reply("left" if second and question == "ambiguous?" else "right")
    valid = question != "second says invalid?" or not second
    valid = valid and question != "Thus: reworded otherwise?"
    if second and question == "second mute?":
      return Reply("I would rather not say.")
    verdict = {k: {"ok": valid, "why": "so"} for k in CRITERIA}
    return Reply(json.dumps(verdict | {"correct": {"ok": right, "why": "so"}}))

  def _paraphraser(self, request):
    question = request.fields["question"]
    if question == "no words?":
      return Reply("no")
    return Reply(json.dumps({"paraphrase": f"Thus: {question}"}))


def players():
  names = ("answerer", "judge", "second", "paraphraser")
  return confirm.Models(*(Player(name) for name in names))


@pytest.fixture
def workdir(tmp_path):
  """One file of evaluations: each question fails once, and as many do not."""
  buffer = io.BytesIO()
  Image.new("RGB", (56, 28)).save(buffer, "PNG")
  rows = []
  for place, question in enumerate([*ENDS, *(f"fine {i}?" for i in range(len(ENDS)))]):
    image = "ij"[place % 2]
    records.write_image(tmp_path, ImageExample(image, buffer.getvalue()))
    rows.append(
      {
        "image_id": image, "question": question, "answer": "wrong", "status": "ok",
        "valid": True, "correct": question.startswith("fine"), "truth": None,
        "place": place,
      }
    )  # fmt: skip
  table = pd.DataFrame(rows).astype({"valid": "boolean", "correct": "boolean"})
  write_parquet(tmp_path / "evaluations" / "grpo.parquet", table)
  return tmp_path


def run(workdir, models, sample=0, settings=SETTINGS):
  found = confirm.choose(workdir, sample, seed=0)
  return confirm.confirm(workdir, found, models, settings, sample=sample, tell=str)


def test_each_failure_reaches_its_tier(workdir):
  """A check that failed to run is neither passed (the tier would be higher) nor failed
  (then it would not be open)."""
  table = run(workdir, players()).table.set_index("question")
  found = {q: (row.tier, row.open) for q, row in table.iterrows()}
  assert found == {q: tuple(end) for q, end in ENDS.items()}
  assert table.loc["plain?", list(ladder.CHECKS)].eq("passed").all()
  assert table.loc["guess mute?", "needs_image"] == "unscored"
  assert table.loc["greedy right?", "paraphrase"] == "not reached"
  row = table.loc["two of four wrong?"]
  assert (row.again_wrong, row.again_asked) == (3, 5)


def test_a_killed_run_goes_on_and_open_ones_are_asked_again(workdir, monkeypatch):
  monkeypatch.setattr(ladder, "_PART", 4)
  whole = run(workdir, players()).table
  (workdir / "confirmed.parquet").unlink()
  models = players()
  models.answerer.dies_after = 40
  with pytest.raises(KeyboardInterrupt):
    run(workdir, models)
  known = set(records.read_confirmed(workdir).table.query("~open")["question"])
  assert known and known < set(ENDS)
  models = players()
  pd.testing.assert_frame_equal(
    run(workdir, models).table.sort_values("question", ignore_index=True),
    whole.sort_values("question", ignore_index=True),
  )
  asked = {fields["question"] for fields in models.answerer.asked}
  assert not asked & known
  models = players()
  run(workdir, models)
  asked = {fields["question"] for fields in models.answerer.asked}
  assert asked & set(ENDS) == {q for q, (_, open_) in ENDS.items() if open_}
  # Other settings: nothing of before counts.
  models = players()
  run(workdir, models, settings=SETTINGS._replace(samples=2))
  assert {"plain?"} < {fields["question"] for fields in models.answerer.asked}


def test_the_second_judge_is_another(workdir):
  models = players()
  with pytest.raises(ValueError, match="only agree with itself"):
    run(workdir, models._replace(second=models.judge))
  table = run(workdir, models._replace(second=None)).table
  assert table["tier"].max() == 3
  assert table.loc[table["tier"] == 3, "open"].all()


def test_rates_at_a_tier_count_what_reached_it(workdir):
  """Those that fell short are valid and not failed; the open are in no number."""
  confirmed = run(workdir, players())
  rows = pd.read_parquet(workdir / "evaluations" / "grpo.parquet")
  for tier in metrics.TIERS:
    own = metrics.at_tier(rows, *confirmed, "grpo", tier)
    columns = metrics.flags(own)
    reached = sum(end >= tier for end, _ in ENDS.values())
    unknown = sum(end < tier and open_ for end, open_ in ENDS.values())
    assert columns["failure"].sum() == reached
    assert columns["valid"].sum() == len(rows) - unknown
    assert columns["unscored"].sum() == unknown
    share = metrics.survivors(confirmed.table)[tier - 1]
    assert (share.count, share.n) == (reached, len(ENDS) - unknown)


def test_a_sample_leaves_rates_what_they_are(tmp_path):
  """Of 2 000 questions 400 fail: of 100 of them asked again, the rate is still 1 in 5.
  Rows of other outcomes kept whole would make it 1 in 17, failures dropped 0."""
  rows = pd.DataFrame(
    {
      "image_id": "i", "question": [f"{n}?" for n in range(2000)], "answer": "a",
      "truth": None, "status": "ok", "valid": True,
      "correct": [n % 5 > 0 for n in range(2000)], "place": range(2000),
    }
  ).astype({"valid": "boolean", "correct": "boolean"})  # fmt: skip
  write_parquet(tmp_path / "evaluations" / "sft_heldout.parquet", rows)
  found = confirm.choose(tmp_path, 100, seed=1)
  assert (len(found.rows), found.total) == (100, 400)
  fewer = confirm.choose(tmp_path, 30, seed=1).rows
  assert set(fewer["question"]) < set(found.rows["question"])
  table = found.rows.assign(tier=2, open=False)
  statement = {"thresholds": found.thresholds, "seed": 1}
  own = metrics.flags(metrics.at_tier(rows, table, statement, "sft_heldout", 2))
  assert own["failure"].sum() == 100
  assert 0.16 < own["failure"].sum() / own["valid"].sum() < 0.24
  # A file of which nothing was drawn says nothing.
  assert not len(metrics.at_tier(rows, table, statement, "grpo", 2))


def test_a_paraphrase_asks_the_same_in_other_words():
  rng, seen = random.Random(0), 0
  for _ in range(150):
    scene = sample_scene(rng)
    asked = sample_question(rng, scene)
    other = paraphrase(asked.text)
    assert other != asked.text and other == paraphrase(asked.text)
    again = judge_question(other, scene)
    assert (again.answer, again.program) == (
      asked.verdict.answer,
      asked.verdict.program,
    )
    seen += other.split()[0] != asked.text.split()[0]
  assert seen > 75
  assert paraphrase("Who made this picture?") is None


def test_the_oracle_paraphrases_and_answers():
  engine = inference.resolve("oracle://?se=0.6&sp=0.6")
  ask = {"question": "Is there a star?", "task": "paraphrase"}
  (reply,) = engine.generate([inference.Request([], fields=ask)])
  assert json.loads(reply.text)["paraphrase"] != ask["question"]
  (reply,) = engine.generate([inference.Request([], fields=ask | {"question": "Hm?"})])
  assert "no other words" in reply.error


def test_costs_are_at_least_what_is_asked(workdir):
  models = players()
  found = confirm.choose(workdir, 0, seed=0)
  cost = confirm.costs(workdir, found.rows, SETTINGS, {"second_judge": (1.0, 1.0)})
  run(workdir, models)
  asked = dict(zip(("answerer", "evaluator", "second_judge", "paraphraser"), models))
  for role, model in asked.items():
    assert 0 < len(model.asked) <= cost[role].calls
  assert cost["second_judge"].usd > 0 and cost["answerer"].usd is None
  assert np.isfinite(cost["answerer"].input_tokens)


def launch(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "launch.confirm", *map(str, arguments)],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_the_command_tells_the_cost_and_then_asks(tmp_path):
  workdir = failing_run.make(tmp_path)
  judge = "--second_judge=oracle://?se=0.99&sp=0.99"
  done = launch("--workdir", workdir, judge, "--dry_run", "--price=answerer=1,2")
  assert done.returncode == 0, done.stderr
  distinct = len(confirm.choose(workdir, 0, 0).rows)
  assert f"{distinct} of {distinct} distinct failures" in done.stdout
  assert "USD" in done.stdout and not (workdir / "confirmed.parquet").exists()
  # 60 % of the answers are wrong, whichever the question.
  done = launch("--workdir", workdir, judge)
  assert done.returncode == 0, done.stderr
  table = records.read_confirmed(workdir).table
  assert f"{distinct} of {distinct}  1.000" in done.stdout
  assert table["tier"].nunique() >= 3 and not table["open"].any()
  # And the numbers and the page of a tier.
  found = evaluate.measure(workdir, inference.resolve_embedder(EMBEDDER), 0, tier=2)
  reached = int((table["tier"] >= 2).sum())
  during = found["methods"]["zero_shot"]["during"]
  assert during["fdr"]["count"] == reached < distinct
  assert json.loads((workdir / "metrics-tier-2.json").read_text()) == found
  page = pathlib.Path(report.build(workdir, tier=2))
  assert page.name == "tier-2.html" and "missed again" in page.read_text()
  done = launch("--workdir", workdir, judge, "--price=answerer")
  assert done.returncode == 1 and "role=in,out" in done.stderr
