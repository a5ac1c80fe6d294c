"""Labels of five simulated people: the judge's true errors, and rates without them."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fmd_jax import evaluate, records, trust
from fmd_jax.trust import scoring
from tests.records.shards_test import record
from tests.runs import ROOT

IMAGES, EACH = 60, 10
SE = {"valid": 0.8, "correct": 0.9}
SP = {"valid": 0.9, "correct": 0.7}


class Letters:
  """An embedder for a test."""

  name, revision = "letters", "1"

  def embed(self, texts):
    return np.array([[1 + text.count(c) for c in "abcd"] for text in texts], float)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir whose evaluator errs at known rates, and the truth of its slots."""
  folder, generator = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
  n = IMAGES * EACH
  valid, wrong = generator.random(n) < 0.85, generator.random(n) < 0.4
  called = np.where(generator.random(n) < np.where(valid, 0.9, 0.8), valid, ~valid)
  fault = np.where(generator.random(n) < np.where(wrong, 0.9, 0.7), wrong, ~wrong)
  fault = np.where(valid, fault, generator.random(n) < 0.5)
  rows = [
    record(
      step=k // EACH, image=f"i{k // EACH}", slot=k % EACH, method="zero_shot",
      question=f"What is {k}?", valid=True, correct=True,
    )
    for k in range(n)
  ]  # fmt: skip
  for step in range(IMAGES):
    own = rows[step * EACH : (step + 1) * EACH]
    records.write_shard(folder, "zero_shot", "train", step, own)
  table = records.read(folder, "zero_shot").assign(
    evaluator="judge@1", valid=called, correct=~fault, skills=None, truth=None
  )
  table = table.astype({"valid": "boolean", "correct": "boolean"})
  records.write_parquet(folder / "evaluations" / "zero_shot.parquet", table)
  slots = table[["method", "split", "step", "image_id", "response_index", "slot"]]
  return folder, slots.assign(true_valid=valid, true_correct=~wrong)


def labels(slots, raters=5, error=0.1, seed=1):
  generator = np.random.default_rng(seed)
  parts = []
  for rater in range(raters):
    flip = generator.random((2, len(slots))) < error
    valid = slots["true_valid"].to_numpy() ^ flip[0]
    correct = np.where(valid, slots["true_correct"].to_numpy() ^ flip[1], np.nan)
    own = slots.drop(columns=["true_valid", "true_correct"])
    parts.append(own.assign(rater=f"r{rater}", valid=valid * 1, correct=correct))
  return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("consensus", scoring.CONSENSUS)
def test_the_simulated_truth_comes_back(run, consensus):
  folder, slots = run
  if consensus == "dawid_skene":
    pytest.importorskip("crowdkit")
  found = trust.score(folder, labels(slots), consensus)
  assert json.loads((folder / "calibration.json").read_text()) == found
  own = found["judges"]["judge@1"]
  for step in ("valid", "correct"):
    for name, truth in (("sensitivity", SE), ("specificity", SP)):
      share = own[step][name]
      assert share["low"] < truth[step] < share["high"], (step, name, share)
      assert share["high"] - share["low"] < 0.2
  # The verifier called everything valid and right: no sensitivity at all.
  verifier = found["judges"]["v"]
  assert verifier["valid"]["sensitivity"]["value"] == 0.0
  assert verifier["valid"]["specificity"]["value"] == 1.0
  assert found["raters"]["raters"] == 5 and found["raters"]["items"] == len(slots)
  # Five raters who err one time in ten, validity .85: alpha .43 in expectation.
  assert 0.35 < found["raters"]["valid"]["alpha"] < 0.55
  margins = own["agreement"]["valid"]["by_margin"]
  assert list(margins)[:3] == ["5-0", "4-1", "3-2"]
  assert margins["5-0"]["value"] > margins["3-2"]["value"]
  assert set(own["bands"]) == {"short"} and set(own["methods"]) == {"zero_shot"}


def test_a_calibrated_run_shows_both_rates(run):
  """Raw FDR .53; corrected about .4. Without the file it says "uncalibrated"."""
  folder, slots = run
  (folder / "calibration.json").unlink(missing_ok=True)
  summary = evaluate.measure(folder, Letters(), 0)["methods"]["zero_shot"]["during"]
  assert (summary["calibration"], summary["corrected"]) == ("uncalibrated", None)
  trust.score(folder, labels(slots))
  again = evaluate.measure(folder, Letters(), 0)["methods"]["zero_shot"]["during"]
  assert again["fdr"] == summary["fdr"] and again["calibration"] == "calibrated"
  truth = 1 - slots.loc[slots["true_valid"], "true_correct"].mean()
  fixed = again["corrected"]["fdr"]
  assert fixed["low"] < truth < fixed["high"]
  assert not summary["fdr"]["low"] < truth < summary["fdr"]["high"]
  assert abs(again["corrected"]["qvr"]["value"] - slots["true_valid"].mean()) < 0.06


def test_labels_that_are_none(run):
  folder, slots = run
  good = labels(slots.head(20))
  for bad, message in (
    (good.drop(columns="rater"), "no column rater"),
    (good.assign(valid=2), "valid is 2"),
    (pd.concat([good, good]), "more than once"),
    (good.assign(step=999), "not in this run, such as"),
  ):
    with pytest.raises(ValueError, match=message):
      trust.score(folder, bad)
  with pytest.raises(ValueError, match="median"):
    trust.score(folder, good, "median")


def test_the_launcher_scores_a_csv(run, tmp_path):
  folder, slots = run
  labels(slots).to_csv(tmp_path / "labels.csv", index=False)
  command = [sys.executable, "-m", "launch.human_study", "score"]
  command += [f"--workdir={folder}", f"--labels={tmp_path / 'labels.csv'}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert "judge@1" in done.stdout and "600 questions, 5 raters" in done.stdout
