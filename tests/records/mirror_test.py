"""Weights & Biases, played by a module of the same calls."""

import builtins
import json
import sys
import types

import pytest

from fmd_jax import records
from fmd_jax.records import mirror


class FakeRun:
  def __init__(self, options):
    self.options, self.logged, self.metrics = options, [], {}
    self.summary, self.finished = {}, False

  def define_metric(self, name, step_metric=None):
    self.metrics[name] = step_metric

  def log(self, values):
    self.logged.append(values)
    self.summary |= values

  def finish(self):
    self.finished = True


@pytest.fixture
def runs(monkeypatch, tmp_path):
  """The runs that were begun; wandb keeps the summary of a run that is resumed."""
  begun = []

  def init(**options):
    run = FakeRun(options)
    if begun and options["resume"] == "allow" and begun[-1].options["id"]:
      run.summary = dict(begun[-1].summary)
    begun.append(run)
    return run

  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
  monkeypatch.setattr(mirror, "_SECONDS", 0.01)
  (tmp_path / "config.json").write_text(json.dumps({"steps": 9}))
  return begun


def measure(workdir, start, stop):
  out = records.Measurements(workdir, "grpo", start)
  for step in range(start, stop):
    out.write(step, {"a/b": step, "a/nan": float("nan")})


def test_every_step_is_sent_once_over_a_resume(runs, tmp_path):
  with mirror.wandb_mirror(tmp_path, "failures", "abc"):
    measure(tmp_path, 0, 5)
  with mirror.wandb_mirror(tmp_path, "failures", "abc"):
    measure(tmp_path, 3, 7)  # 3 and 4 once more, from the checkpoint
  first, second = runs
  assert first.options["project"] == "failures" and first.options["id"] == "abc"
  assert first.options["config"] == {"steps": 9} and first.finished
  sent = [row["grpo/step"] for run in runs for row in run.logged]
  assert sent == list(range(7))
  # A NaN would be a point at zero on some charts.
  assert first.logged[4] == {"grpo/step": 4, "grpo/a/b": 4}
  # Else the x-axis counts calls, and two methods share it.
  assert first.metrics["grpo/*"] == "grpo/step"


def test_trouble_there_does_not_end_the_run(runs, tmp_path, monkeypatch):
  def unwell(self, values):
    raise OSError("no network")

  with mirror.wandb_mirror(tmp_path, "failures", "abc"):
    monkeypatch.setattr(FakeRun, "log", unwell)
    measure(tmp_path, 0, 2)
  assert len(records.read_measurements(tmp_path)) == 2


def test_no_project_means_no_wandb(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  mirror.check("")
  with mirror.wandb_mirror(tmp_path, "", "abc"):
    measure(tmp_path, 0, 1)


def test_the_line_to_type_when_it_is_missing(monkeypatch):
  real = builtins.__import__

  def without(name, *arguments):
    if name == "wandb":
      raise ModuleNotFoundError("No module named 'wandb'")
    return real(name, *arguments)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ValueError, match=r"pip install wandb==\d"):
    mirror.check("failures")


def test_a_refusal_names_the_cure(tmp_path, runs, monkeypatch):
  def init(**options):
    raise ValueError("api_key not configured")

  monkeypatch.setattr(sys.modules["wandb"], "init", init)
  with (
    pytest.raises(RuntimeError, match="wandb login"),
    mirror.wandb_mirror(tmp_path, "failures", "abc"),
  ):
    pass
