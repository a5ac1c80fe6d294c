"""Every method from start to end: the shipped questioner, scripts for the others."""

import json
import shutil
import types

import numpy as np
import pandas as pd
import pytest

from fmd_jax import discover, records
from fmd_jax.checkpoint import Checkpoints
from fmd_jax.methods import expert_iteration
from tests.runs import small_config

METHODS = ("sft", "conme", "expert_iteration", "sft_then_grpo")
STEPS, B, G, K, ROUNDS = 4, 4, 2, 2, 2
SCRIPT = """
def answer(request):
  # Right where the oracle says so.
  return "yes"


def vector(text):
  return [len(text), text.count("e"), 1.0]
"""


def small(folder, **changes):
  script = folder / "roles.py"
  script.write_text(SCRIPT)
  config = small_config(steps=STEPS, images_per_step=B, group_size=G)
  config.methods = METHODS
  config.roles.answerer = f"scripted://{script}:answer"
  config.roles.embedder = f"scripted://{script}:vector"
  config.sft.corpus = ("failures://testbed/answerer_other?limit=8",)
  config.sft.epochs = 4.0
  config.expert_iteration.rounds = ROUNDS
  config.expert_iteration.epochs = 1.0
  config.optimizer.warmup_steps = 1
  config.checkpoint.every = 1
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def workdir(folder):
  discover.discover(small(folder), folder / "run")
  return folder / "run"


@pytest.mark.slow
def test_every_method_asks_as_many_questions(workdir):
  spent = records.totals(workdir, "budget")
  for method in METHODS:
    rows = records.read(workdir, method)
    assert records.steps(workdir, method) == list(range(STEPS))
    assert len(rows) == STEPS * B * G * K == spent[method]["questions"]
    assert len(records.read(workdir, method, "heldout")) == 4 * G * K
    # Copies of a question are asked once: never more calls than questions.
    parsed = (rows["status"] != "unparsed").sum()
    for role in ("answerer", "verifier"):
      assert 0 < spent[method][f"{role}_calls"] <= parsed
    assert spent[method]["questioner_tokens"] > len(rows)


@pytest.mark.slow
def test_what_is_trained_moves_and_what_is_not_does_not(workdir):
  by_step = {
    method: records.read(workdir, method).groupby("step")["questioner_step"].first()
    for method in METHODS
  }
  assert by_step["conme"].tolist() == [0] * STEPS
  # 8 images, 4 an update, 4 times.
  assert by_step["sft"].tolist() == [8] * STEPS
  first, second = by_step["expert_iteration"][0], by_step["expert_iteration"][2]
  assert first == 0 < second
  assert by_step["expert_iteration"].tolist() == [0, 0, second, second]
  assert by_step["sft_then_grpo"].tolist() == list(range(STEPS))


@pytest.mark.slow
def test_sft_learns_its_corpus(workdir):
  measured = records.read_measurements(workdir, "sft_tuning")
  assert len(measured) == 8
  # Twice the same images in another order; frozen, the loss would stay.
  assert measured["sft/loss"][6:].mean() < measured["sft/loss"][:2].mean() - 0.05
  assert measured["sft/kl"].iloc[0] < 1e-6 < measured["sft/kl"].iloc[-1]
  assert (workdir / "questioner_hf_sft" / "model.safetensors").is_file()


@pytest.mark.slow
def test_rl_starts_from_what_sft_learned(workdir):
  measured = records.read_measurements(workdir, "sft_then_grpo")
  # From the folder's questioner instead, or with it as the reference, one of them is
  # far from 0.
  assert measured["grpo/ratio_max_dev"].max() <= 1e-4
  assert measured["grpo/kl"].iloc[0] < 1e-6
  exported = {
    (workdir / name / "model.safetensors").read_bytes()
    for name in ("questioner_hf_sft", "questioner_hf_sft_then_grpo")
  }
  assert len(exported) == 2


@pytest.mark.slow
def test_expert_iteration_keeps_valid_failures_of_its_round(workdir):
  rows = records.read(workdir, "expert_iteration")
  for steps in (range(2), range(2, 4)):
    wanted = {
      (row.image_id, row.question)
      for row in rows.itertuples()
      if row.step in steps and row.status == "ok" and row.valid and not row.correct
    }
    kept = expert_iteration.Kept(types.SimpleNamespace(workdir=workdir), steps)
    found = [(image.image_id, q) for image, questions in kept for q in questions]
    assert 0 < len(found) == len(set(found)) == kept.questions
    assert set(found) == wanted
  assert [list(r) for r in expert_iteration.rounds_of(7, 3)] == [
    [0, 1],
    [2, 3],
    [4, 5, 6],
  ]


def _same(a, b, method, split="train"):
  one, two = (records.read(folder, method, split) for folder in (a, b))
  volatile = ["run_id", "wall_time"]
  pd.testing.assert_frame_equal(one.drop(columns=volatile), two.drop(columns=volatile))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "saves"), [("expert_iteration", 3), ("sft", 5)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
  folder, workdir, tmp_path, monkeypatch, method, saves
):
  """Cut off within the learning; of Expert Iteration that of the second round."""
  config = small(folder, methods=(method,))
  save, done = Checkpoints.save, []

  def killed(self, *arguments):
    save(self, *arguments)
    done.append(arguments[0])
    if len(done) == saves:
      raise KeyboardInterrupt

  monkeypatch.setattr(Checkpoints, "save", killed)
  with pytest.raises(KeyboardInterrupt):
    discover.discover(config, tmp_path / "run")
  monkeypatch.undo()
  assert not (tmp_path / "run" / "metrics.json").exists()
  discover.discover(config, tmp_path / "run")
  # Without the optimiser's state, or with the failures of another round, they differ.
  for split in ("train", "heldout"):
    _same(tmp_path / "run", workdir, method, split)
  one, two = (
    records.read_measurements(at, f"{method}_tuning")
    for at in (tmp_path / "run", workdir)
  )
  np.testing.assert_allclose(one["sft/loss"], two["sft/loss"], rtol=1e-5)


@pytest.mark.slow
def test_a_method_that_is_done_asks_nothing_again(folder, workdir, tmp_path):
  again = tmp_path / "run"
  shutil.copytree(workdir, again)
  before = {p: p.stat().st_mtime_ns for p in again.rglob("records/*/*.parquet")}
  discover.discover(small(folder), again)
  for method in METHODS:
    _same(again, workdir, method)
  kept = [p for p in before if "heldout" not in str(p)]
  assert all(p.stat().st_mtime_ns == before[p] for p in kept)
  assert json.loads((again / "manifest.json").read_text())["resumes"]


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"sft.corpus": ()}, "config.sft.corpus is empty"),
    ({"expert_iteration.rounds": 9}, "rounds is 9; it can be 1 to config.steps"),
    ({"group_size": 3}, "config.group_size is 3; conme asks half"),
    ({"roles.questioner": "openai://gpt"}, "trained (sft) must be a checkpoint folder"),
    (
      {"roles.questioner": "openai://gpt", "methods": ("conme",)},
      "config.conme.questioner='' one model asks both turns",
    ),
    ({"sampling.temperature": 0.7}, "config.sampling.temperature is 0.7"),
  ],
)
def test_what_cannot_work_is_refused(folder, changes, expected):
  with pytest.raises(ValueError) as error:
    discover.check(small(folder, **changes))
  assert expected in str(error.value)
