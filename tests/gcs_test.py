"""A workdir in a bucket is the workdir that it would be on a disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from etils import epath

from fmd_jax import analysis, records, report, taxonomy, trust
from fmd_jax.report import closing, status
from tests import gcs
from tests.analysis.write_test import embed
from tests.kill_and_resume import QUICK, differences
from tests.report import fake
from tests.runs import ROOT
from tests.taxonomy import build_test, workdirs


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
  """The environment of processes that see it; this one does too."""
  log = tmp_path_factory.mktemp("bucket") / "log"
  with gcs.running(log) as environment, pytest.MonkeyPatch.context() as patch:
    for name, value in environment.items():
      patch.setenv(name, value)
    yield os.environ | {"PYTHONPATH": str(ROOT)}


def files(folder):
  """Name -> content of all files below a folder."""
  found = {}
  for path in sorted(epath.Path(folder).iterdir()):
    if path.is_dir():
      found |= {f"{path.name}/{name}": data for name, data in files(path).items()}
    else:
      found[path.name] = path.read_bytes()
  return found


def test_what_reads_a_run_reads_it_there(bucket, tmp_path, monkeypatch):
  # Wrong: `pathlib`, to which gs://bucket is the folder "gs:" of this one.
  monkeypatch.chdir(tmp_path)
  here, there = tmp_path / "run", f"{gcs.BUCKET}/read/run"
  here.mkdir()
  fake.make_workdir(here, steps=6)
  for path in (here / "evaluations").glob("*.parquet"):
    records.write_parquet(path, pd.read_parquet(path).assign(judge="judge@1"))
  gcs.copy(epath.Path(here), epath.Path(there))

  def told(text):
    return text.replace(there, "RUN").replace(str(here), "RUN")

  slots = records.read(here, "grpo").query("status == 'ok'").head(30)
  key = ["method", "split", "step", "image_id", "response_index", "slot"]
  labels = slots[key].assign(rater="one", valid=1, correct=[0, 1, 1] * 10)
  pages = {}
  for folder in (here, there):
    assert trust.score(folder, labels)["raters"]["items"] == 30
    page = report.build(folder)
    assert page == f"{folder}/report/index.html"
    pages[folder] = told(epath.Path(page).read_text())
    made = report.export(folder, f"{folder}-exported")
    assert made["dataset"] == epath.Path(f"{folder}-exported/dataset")
  assert pages[there] == pages[here] and "data:image/jpeg" in pages[here]
  assert files(f"{there}-exported") == files(f"{here}-exported")
  assert files(there)["calibration.json"] == files(here)["calibration.json"]
  assert told(closing.closing(there)) == told(closing.closing(here))
  seen = [status.text(status.read(folder)) for folder in (here, there)]
  assert seen[1].replace(there, "") == seen[0].replace(str(here), "")
  # What others write is seen at once, as by `launch.status --follow`.
  with_one_more = epath.Path(there) / "records" / "grpo" / "step-000099-x.parquet"
  before = len(list(with_one_more.parent.iterdir()))
  write = "import sys; from etils import epath; epath.Path(sys.argv[1]).write_text('')"
  subprocess.run([sys.executable, "-c", write, with_one_more], env=bucket, check=True)
  assert len(list(with_one_more.parent.iterdir())) == before + 1
  assert not (tmp_path / "gs:").exists()


def test_a_taxonomy_and_analyses_there(bucket, tmp_path, monkeypatch):
  monkeypatch.setattr("fmd_jax.taxonomy.topics.FEWEST", 10_000)
  monkeypatch.chdir(tmp_path)
  here, there = tmp_path / "run", epath.Path(gcs.BUCKET) / "taxonomy" / "run"
  workdirs.make(here, images=3, per_image=20)
  gcs.copy(epath.Path(here), there)
  models = build_test.models()
  for folder in (epath.Path(here), there):
    for _ in range(2):  # the second time from what the first one left
      taxonomy.build([folder], models, build_test.SETTINGS)
    analysis.write([folder], embed, {})
  for part in ("taxonomy", "analysis"):
    one, two = files(here / part), files(there / part)
    assert one.keys() == two.keys()
    for name in one.keys() - {"summary.json"}:
      if name.endswith(".parquet"):
        tables = [records.read_parquet(f / part / name) for f in (here, there)]
        for table in tables:
          table.drop(columns="workdir", errors="ignore", inplace=True)
        pd.testing.assert_frame_equal(*tables)
      elif not name.endswith(".svg"):
        assert two[name].replace(str(there).encode(), b"RUN") == one[name].replace(
          str(here).encode(), b"RUN"
        ), name
  assert not (tmp_path / "gs:").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a machine that others use
def test_a_run_from_its_start_to_its_table(bucket, played_run, tmp_path):
  # Wrong: exit code 1 at the report, a resumed run that differs, no table.
  root = f"{gcs.BUCKET}/sweep"
  workdir = epath.Path(root) / "runs" / "seed-0"

  def launch(module, *arguments):
    command = [sys.executable, "-m", f"launch.{module}", *arguments]
    done = subprocess.run(
      command, cwd=ROOT, env=bucket, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

  run = (f"--workdir={workdir}", *QUICK, "--config.checkpoint.every=100")
  with open(tmp_path / "log", "wb") as log:
    process = subprocess.Popen(
      [sys.executable, "-m", "launch.discover", *run],
      cwd=ROOT, env=bucket, stdout=log, stderr=log,
    )  # fmt: skip
  try:
    while not records.steps(workdir, "grpo"):
      assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == 75
  finally:
    process.kill()
  assert re.search("grpo: step . of 3", launch("status", f"--workdir={workdir}"))
  shown = launch("discover", *run)
  assert f"Report: {workdir}/report/index.html" in shown
  copied = tmp_path / "copied"
  gcs.copy(workdir, epath.Path(copied))
  assert differences(played_run / "run", copied) == []
  assert "finished" in launch("status", f"--workdir={workdir}")
  assert str(workdir) in launch("report", f"--workdir={workdir}")
  numbers = (workdir / "metrics.json").read_bytes()
  assert str(workdir) in launch("evaluate", f"--workdir={workdir}")
  assert json.loads((workdir / "metrics.json").read_bytes()) == json.loads(numbers)
  sweep = (
    "--configs=tests/runs.py",
    f"--workdir={root}",
    "--config.optimizer.eps=1e-6",
  )
  shown = launch("sweep", *sweep, "--config.checkpoint.every=100")
  assert "runs seed 0: finished before, skipped" in shown
  table = (epath.Path(root) / "table.md").read_text()
  rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("|")]
  assert {"| zero_shot", "| runs"} <= set(rows), rows
  assert not (ROOT / "gs:").exists()
