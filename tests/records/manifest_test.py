"""A run's identity, and the refusal of a workdir that holds another run."""

import json
import subprocess
import sys

import pytest

from fmd_jax import records

CONFIG = {
  "seed": 0,
  "methods": ("zero_shot", "grpo"),
  "grpo": {"beta": 0.1, "clip": 0.2},
  "reward": {"terms": ("semantic",)},
  "empty": {},
}


def write(workdir, config=CONFIG, **kwargs):
  return records.write_manifest(
    workdir,
    config=config,
    seeds={"run": 0},
    models={"answerer": {"name": "tiny", "revision": "abc"}},
    prompts={"questioner": "1"},
    **kwargs,
  )


def test_contents(tmp_path):
  manifest = write(tmp_path, argv=["discover", "--x"])
  on_disk = json.loads((tmp_path / "manifest.json").read_text())
  assert on_disk == manifest
  assert manifest["argv"] == ["discover", "--x"]
  assert manifest["schema_version"] == records.SCHEMA_VERSION
  assert manifest["seeds"] == {"run": 0}
  assert manifest["models"]["answerer"]["revision"] == "abc"
  assert manifest["packages"]["pyarrow"]
  assert {"git_commit", "git_dirty", "prompts", "started"} <= manifest.keys()
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["methods"] == ["zero_shot", "grpo"]
  assert config == manifest["config"]


def test_resume_keeps_the_identity(tmp_path):
  """A new run id on resume would split one run's records in two."""
  assert records.check_config(tmp_path, CONFIG) is False
  first = write(tmp_path)
  assert records.check_config(tmp_path, CONFIG) is True
  second = write(tmp_path, argv=["again"])
  assert second["run_id"] == first["run_id"]
  assert second["argv"] == first["argv"]
  assert [r["argv"] for r in second["resumes"]] == [["again"]]


def test_another_config_is_refused_in_one_line(tmp_path):
  write(tmp_path)
  other = CONFIG | {"grpo": {"beta": 0.2, "clip": 0.2}, "seed": 1}
  with pytest.raises(records.WorkdirError) as error:
    write(tmp_path, other)
  message = str(error.value)
  assert "grpo.beta is 0.1 there and 0.2 here; seed is 0 there and 1 here" in message
  assert "--workdir" in message
  assert "\n" not in message
  assert "clip" not in message
  assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
  assert records.check_config(tmp_path, other, ("grpo.beta", "seed"))


def test_added_and_removed_keys(tmp_path):
  """Comparing the common keys only would let both pass."""
  write(tmp_path)
  for other in (
    CONFIG | {"steps": 3},
    {k: v for k, v in CONFIG.items() if k != "seed"},
    CONFIG | {"seed": False},  # 0 == False in Python
    CONFIG | {"empty": {"a": {}}},
  ):
    with pytest.raises(records.WorkdirError):
      records.check_config(tmp_path, other)


def test_many_differences_are_counted(tmp_path):
  write(tmp_path, {f"k{i}": 0 for i in range(9)})
  with pytest.raises(records.WorkdirError, match="and 6 more keys"):
    write(tmp_path, {f"k{i}": 1 for i in range(9)})


def test_no_jax_is_imported():
  """The analysis side reads records without jax."""
  code = "import sys, fmd_jax.records, fmd_jax.rewards; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)
