"""The command as a user starts it."""

import json
import pathlib
import subprocess
import sys

import pandas as pd
import pytest

from tests.taxonomy import workdirs

ROOT = pathlib.Path(__file__).parents[2]


def launch(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "launch.taxonomy", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=900,
  )


def test_a_folder_that_holds_no_run_is_one_line(tmp_path):
  run = launch("--workdir", str(tmp_path))
  assert run.returncode == 1
  last = run.stderr.strip().splitlines()[-1]
  assert last == f"error: {tmp_path} holds no run: it has no config.json"


@pytest.mark.slow
def test_the_whole_chain_recovers_the_true_skills(tmp_path):
  # Wrong: topics by the words of the phrase, a shuffled assignment, lost skills.
  folder = workdirs.make(tmp_path / "run", images=12, per_image=100)
  run = launch("--workdir", str(folder), "--embedder", "minilm://?threads=1")
  assert run.returncode == 0, run.stderr[-2000:]
  assert "outliers re-assigned by embedding" in run.stderr
  assert "adjusted Rand index over seeds" in run.stderr
  assert "annotate: 100%" in run.stderr and "analyse: 100%" in run.stderr
  assert str(folder / "taxonomy") in run.stdout
  assert "</html>" in (folder / "report" / "index.html").read_text()
  found = pd.read_csv(folder / "analysis" / "recovery.csv").iloc[0]
  assert found["ami"] >= 0.8 and abs(found["shuffled"]) < 0.05
  summary = json.loads((folder / "taxonomy" / "summary.json").read_text())
  assert len(summary["agreement"]) == 3 and min(summary["agreement"]) > 0.5
  assert 15 <= summary["skills"] <= 40
