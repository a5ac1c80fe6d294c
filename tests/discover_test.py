"""The loop end to end, on the checkpoints of the package and real processes."""

import json
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

from fmd_jax import records, report
from fmd_jax.discover import discover, table
from fmd_jax.inference.engines import scripted
from tests.rewards.bruteforce import recompute_rewards
from tests.runs import STEPS, launch, small_config

RUBBISH = """
import zlib

from fmd_jax.inference.engines import oracle

_oracle = None


def verdict(request):
  # Every third question, by its text, gets a reply outside the verdict grammar.
  global _oracle
  _oracle = _oracle or oracle.OracleEngine()
  if zlib.crc32(request.fields["question"].encode()) % 3 == 0:
    return "I would rather not say."
  return _oracle.generate([request])[0]
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """One finished run that several tests read."""
  folder = tmp_path_factory.mktemp("run")
  discover(small_config(), folder)
  return folder


def _same_rows(a: pd.DataFrame, b: pd.DataFrame, but=()) -> None:
  volatile = ["run_id", "wall_time", *but]
  pd.testing.assert_frame_equal(a.drop(columns=volatile), b.drop(columns=volatile))


def test_a_run_writes_what_the_contract_says(workdir):
  for method in ("zero_shot", "grpo"):
    assert records.steps(workdir, method) == list(range(STEPS))
    rows = records.read(workdir, method)
    # B·G·K a step: a lost or doubled slot would show here.
    assert len(rows) == STEPS * 4 * 3 * 2
    assert len(records.read(workdir, method, "heldout")) == 4 * 3 * 2
    for image in rows["image_id"].unique():
      assert (workdir / "images" / f"{image}.png").is_file()
    measured = records.read_measurements(workdir, method)
    assert list(measured["step"]) == list(range(STEPS))
  names = {"reward/mean", "rollout/unparsed_rate", "grpo/kl", "time/update"}
  assert names <= set(measured.columns)
  assert json.loads((workdir / "config.json").read_text())["seed"] == 0
  manifest = json.loads((workdir / "manifest.json").read_text())
  # Names, never addresses: a record must mean the same after the sidecar is gone.
  assert "127.0.0.1" not in json.dumps(manifest["models"])
  assert "grpc" not in records.read(workdir, "grpo")["answerer"].iloc[0]
  for name in ("grpo", "grpo_heldout", "zero_shot", "zero_shot_heldout"):
    assert (workdir / "evaluations" / f"{name}.parquet").is_file()
  page = pathlib.Path(report.build(workdir)).read_text()
  assert "RL (GRPO)" in page
  assert (workdir / "questioner_hf" / "model.safetensors").is_file()


def test_first_update_is_on_policy_and_later_ones_move(workdir):
  measured = records.read_measurements(workdir, "grpo")
  # A sampler under another mask, position or temperature than the scorer's gives
  # ratios off 1; old := stop_gradient(new) would hide that, and isn't done.
  assert measured["grpo/ratio_max_dev"].max() <= 1e-4
  assert measured["grpo/kl"].iloc[0] < 1e-6 < measured["grpo/kl"].iloc[-1]


def test_every_training_reward_follows_from_the_rows_alone(workdir):
  from fmd_jax.inference.engines.minilm import MiniLMEngine

  config = small_config()
  embedder = MiniLMEngine()
  rows = records.read(workdir, "grpo")
  wanted = recompute_rewards(
    rows,
    embedder.embed,
    config.reward.terms,
    (config.reward.lambda_scale, config.reward.lambda_penalty),
    config.reward.prefix_length,
  )
  for name, values in wanted.items():
    got = rows[name].to_numpy(dtype=float, na_value=np.nan)
    np.testing.assert_allclose(got, values, atol=1e-5, err_msg=name)
  assert (rows["reward"] > 0).any()
  assert (rows["reward"] < 0).any() or rows["valid"].all()


def test_advantages_are_those_of_the_recorded_rewards(workdir):
  rows = records.read(workdir, "grpo")
  responses = rows.groupby(["step", "group_id", "response_index"], sort=False).first()
  for _, group in responses.groupby(["step", "group_id"], sort=False):
    reward = group["response_reward"].to_numpy(float)
    # ddof = 0 would give advantages larger by sqrt(3 / 2).
    wanted = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-6)
    wanted = wanted if np.ptp(reward) > 0 else np.zeros_like(reward)
    np.testing.assert_allclose(group["advantage"].to_numpy(float), wanted, atol=1e-4)


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(workdir, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(workdir, folder)
  # As after a crash in the last step: one checkpoint back, shards beyond it.
  shutil.rmtree(folder / "checkpoints" / "grpo" / str(STEPS))
  discover(small_config(), folder)
  # Without the banks, the optimiser or the data cursor the last step would differ.
  _same_rows(records.read(folder, "grpo"), records.read(workdir, "grpo"))
  after = records.read_measurements(folder, "grpo")
  before = records.read_measurements(workdir, "grpo")
  assert list(after["step"]) == list(range(STEPS))
  np.testing.assert_allclose(after["grpo/loss"], before["grpo/loss"], rtol=1e-5)


def test_a_verifier_that_answers_rubbish_leaves_rows_unscored(workdir, tmp_path):
  script = tmp_path / "judge.py"
  script.write_text(RUBBISH)
  assert scripted.load(f"{script}:verdict") is not None
  config = small_config()
  config.methods = ("zero_shot",)
  config.roles.verifier = f"scripted://{script}:verdict"
  discover(config, tmp_path / "run")
  got = records.read(tmp_path / "run", "zero_shot")
  whole = records.read(workdir, "zero_shot")
  lost = got["status"] == "unscored"
  assert 0 < lost.sum() < len(got)
  # Never "wrong", never 0: an unscored row has no verdict and no reward.
  for column in ("valid", "correct", "reward"):
    assert got.loc[lost, column].isna().all()
  kept = ["question", "answer", "grammatical", "atomic", "grounded", "objective"]
  kept += ["valid", "correct", "status"]
  pd.testing.assert_frame_equal(got.loc[~lost, kept], whole.loc[~lost, kept])
  assert (got["question"] == whole["question"]).all()


def test_bad_input_is_one_clear_line_and_nothing_is_lost(workdir, tmp_path):
  base = ["--config", "configs/quickstart.py"]
  cases = {
    "no_such_key": (["--workdir", str(tmp_path / "a"), "--config.no_such_key=1"]),
    "not a checkpoint": [
      "--workdir", str(tmp_path / "b"), f"--config.roles.questioner=hf://{tmp_path}",
    ],
    "another config": ["--workdir", str(workdir), "--config.seed=5"],
    "config.methods": [
      "--workdir", str(tmp_path / "c"), "--config.methods=('nonsense',)",
    ],
  }  # fmt: skip
  before = {p: p.stat().st_mtime_ns for p in pathlib.Path(workdir).rglob("*.parquet")}
  for expected, arguments in cases.items():
    run = launch(*base, *arguments)
    assert run.returncode != 0, expected
    lines = [line for line in run.stderr.splitlines() if expected in line]
    assert lines, f"{expected!r} is not in:\n{run.stderr[-2000:]}"
    assert "Traceback" not in run.stderr, run.stderr[-2000:]
  after = {p: p.stat().st_mtime_ns for p in pathlib.Path(workdir).rglob("*.parquet")}
  assert before == after


def test_the_table_of_a_run_too_small_for_an_upper_end():
  ratio = {"value": 2.0, "low": 0.5, "high": None}
  found = {"grpo": {"after": {"fdr": {"ratio": ratio}}}}
  text = table({"methods": {}, "comparison": found})
  # It ended in a TypeError, after the whole run.
  assert text.endswith("FDR of grpo / zero_shot, after: 2.00 [0.50, -]")
