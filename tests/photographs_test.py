"""A run over real photographs, with models that are not ours, local and remote."""

import json
import pathlib
import shutil
import threading
import time

import numpy as np
import pandas as pd
import pytest

from fmd_jax import records, report
from fmd_jax.discover import discover
from fmd_jax.sidecar import process
from tests.runs import small_config

SCRIPT = """
import json
import zlib


def answer(request):
  return "a cat"


def verdict(request):
  draw = zlib.crc32(request.fields["question"].encode())
  names = ("grammatical", "atomic", "grounded", "objective")
  reply = {name: {"ok": True, "why": "fine"} for name in names}
  reply["grammatical"]["ok"] = draw % 5 > 0
  reply["correct"] = {"ok": draw % 2 == 0, "why": "a coin"}
  return "<think>hm</think>" + json.dumps(reply)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  """Photographs that scikit-image ships, one broken file among them."""
  import skimage

  folder = tmp_path_factory.mktemp("photographs")
  source = pathlib.Path(skimage.__file__).parent / "data"
  found = [p for p in sorted(source.iterdir()) if p.suffix in (".png", ".jpg", ".jpeg")]
  assert len(found) >= 4, "scikit-image ships no pictures any more?"
  for path in found[:8]:
    shutil.copy(path, folder / path.name)
  (folder / "broken.jpg").write_bytes(b"this is no picture")
  return folder


def _config(photographs, answerer, verifier):
  config = small_config()
  config.steps = 2
  config.images_per_step = 2
  config.methods = ("grpo",)
  config.data.train = f"folder://{photographs}"
  config.data.heldout = f"folder://{photographs}?limit=2"
  config.roles.answerer = answerer
  config.roles.verifier = verifier
  config.roles.evaluator = verifier
  return config


@pytest.mark.slow
def test_photographs_end_to_end_with_scripted_and_remote_models(
  photographs, tmp_path, caplog
):
  script = tmp_path / "models.py"
  script.write_text(SCRIPT)
  specs = {
    "answerer": f"scripted://{script}:answer",
    "verifier": f"scripted://{script}:verdict",
  }
  runs = {}
  runs["scripted"] = tmp_path / "scripted"
  discover(_config(photographs, **specs), runs["scripted"])
  # A broken file is skipped and named, never asked about.
  assert "broken.jpg" in caplog.text
  manifest = json.loads((runs["scripted"] / "manifest.json").read_text())
  said = manifest["data"]["train"]
  assert (said["images"], said["skipped"]) == (len(list(photographs.iterdir())) - 1, 1)
  assert said["skipped_named"][0].startswith("broken.jpg: ")
  with process.start(specs, log=tmp_path / "own.log") as sidecar:
    remote = {role: sidecar.spec(role) for role in specs}
    runs["remote"] = tmp_path / "remote"
    discover(_config(photographs, **remote), runs["remote"])
  tables = {name: records.read(folder, "grpo") for name, folder in runs.items()}
  for name, rows in tables.items():
    assert len(rows) == 2 * 2 * 3 * 2, name
    assert "broken" not in " ".join(rows["image_id"])
    assert set(rows.loc[rows["status"] == "ok", "answer"]) <= {"a cat"}
    # Nothing is known of a photograph: no invented truth.
    table = pd.read_parquet(runs[name] / "evaluations" / "grpo.parquet")
    assert table["truth"].isna().all()
  # The loop can't tell where a model runs.
  kept = ["image_id", "question", "answer", "status", "valid", "correct", "reward"]
  pd.testing.assert_frame_equal(tables["scripted"][kept], tables["remote"][kept])
  assert pathlib.Path(report.build(runs["remote"])).is_file()


@pytest.mark.slow
def test_a_run_waits_for_its_sidecar_says_so_and_goes_on(tmp_path, caplog):
  config = small_config()
  config.methods = ("grpo",)
  reference = tmp_path / "reference"
  discover(config, reference)

  names = ("answerer", "verifier", "evaluator", "embedder")
  specs = {name: config.roles[name] for name in names}
  sidecar = process.start(specs, log=tmp_path / "first.log", threads=1)
  port = int(sidecar.address.rsplit(":", 1)[1])
  config.sidecar.address = sidecar.address
  folder, failures = tmp_path / "interrupted", []

  def run():
    try:
      discover(config, folder)
    except BaseException as error:
      failures.append(error)

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    while not records.steps(folder, "grpo"):
      assert thread.is_alive(), failures
      time.sleep(0.02)
  finally:
    sidecar.stop()
  while "does not answer" not in caplog.text:
    assert thread.is_alive(), "the run ended with its sidecar"
    time.sleep(0.02)
  with process.start(specs, log=tmp_path / "second.log", port=port, threads=1):
    thread.join(200)
  assert not failures
  assert not thread.is_alive()
  kept = ["image_id", "question", "answer", "valid", "correct", "reward", "advantage"]
  got, wanted = (records.read(f, "grpo")[kept] for f in (folder, reference))
  floats = ["reward", "advantage"]
  pd.testing.assert_frame_equal(got.drop(columns=floats), wanted.drop(columns=floats))
  for name in floats:
    np.testing.assert_allclose(
      got[name].to_numpy(float), wanted[name].to_numpy(float), atol=1e-4
    )
