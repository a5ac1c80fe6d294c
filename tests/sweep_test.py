"""launch.sweep as a user starts it, with a fake launch.discover that takes no time."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from configs import ablations
from configs.grids import rewards

ROOT = pathlib.Path(__file__).parents[1]

# Leaves behind what a run does: config.json, evaluations and metrics.json.
DISCOVER = """
import json, os, pathlib, sys, time

import pandas as pd
from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config")
WORKDIR = flags.DEFINE_string("workdir", None, "")


def main(_):
  workdir, config = pathlib.Path(WORKDIR.value), CONFIG.value
  with open(workdir / "started", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\\\n")
  (workdir / "config.json").write_text(json.dumps(config.to_dict()))
  (workdir / "pid").write_text(str(os.getpid()))
  if "slow" in str(workdir):
    time.sleep(280)
  if "crash" in str(workdir) and not pathlib.Path("repaired").exists():
    print("10%\\\\r100%\\\\nerror: out of luck", file=sys.stderr)
    sys.exit(3)
  (workdir / "evaluations").mkdir()
  for method in config.methods:
    wrong = {"zero_shot": 2}.get(method, 3)
    rows = pd.DataFrame({
      "image_id": [f"i{i}" for i in range(8)],
      "status": "ok",
      "question": [f"What is {i}?" for i in range(8)],
      "valid": [i < 4 for i in range(8)],
      "correct": [i >= wrong for i in range(8)],
    })
    for suffix in ("", "_heldout"):
      rows.to_parquet(workdir / "evaluations" / f"{method}{suffix}.parquet")
  known = {method: {"during": {}, "after": {}} for method in config.methods}
  (workdir / "metrics.json").write_text(json.dumps({"methods": known}))


app.run(main)
""".replace("\\\\", "\\")

EMBED = "def vector(text):\n  return [len(text), text.count('1'), 1.0]\n"


@pytest.fixture
def grid(tmp_path):
  """A folder to start sweeps in: the real launch/sweep.py beside the fake discover."""
  (tmp_path / "launch").mkdir()
  (tmp_path / "launch" / "__init__.py").touch()
  (tmp_path / "launch" / "discover.py").write_text(DISCOVER)
  for name in ("sweep.py", "_flags.py"):
    shutil.copy(ROOT / "launch" / name, tmp_path / "launch")
  (tmp_path / "embed.py").write_text(EMBED)
  for name in ("full", "crash", "bare", "slow"):
    methods = ("zero_shot", "grpo") if name == "full" else ("grpo",)
    (tmp_path / f"{name}.py").write_text(
      "from configs import quickstart\n\n\n"
      "def get_config(row=None):\n"
      "  c = quickstart.get_config()\n"
      f"  c.methods = {methods}\n"
      f"  c.roles.embedder = 'scripted://{tmp_path}/embed.py:vector'\n"
      "  return c\n"
    )
  return tmp_path


WORLDS = """
def get_grid(world="big"):
  return {
    "configs": {f"{world}-{name}": f"{name}.py" for name in ("full", "bare")},
    "seeds": [0],
    "world": world,
  }
"""


def command(*arguments):
  return [sys.executable, "-m", "launch.sweep", "--workdir=runs", *arguments]


def environment():
  paths = [str(ROOT), os.environ.get("PYTHONPATH")]
  return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def sweep(cwd, *arguments):
  return subprocess.run(
    command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True
  )


@contextlib.contextmanager
def beside(cwd, *arguments):
  """A sweep that goes on beside the test, and ends with it."""
  process = subprocess.Popen(
    command(*arguments),
    cwd=cwd,
    env=environment(),
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,  # its runs are of its group
  )
  try:
    yield process
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def started(folder):
  """What each start of a run was called with."""
  path = folder / "started"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_dry_run_prints_what_would_be_run_and_does_nothing(grid):
  run = sweep(
    grid,
    "--configs=full.py,bare.py",
    "--seeds=0,3",
    "--dry_run",
    "--config.methods=('grpo',)",
  )
  assert run.returncode == 0, run.stderr
  lines = [shlex.split(line) for line in run.stdout.splitlines()]
  assert lines == [
    [
      *(sys.executable, "-m", "launch.discover", f"--config={name}.py"),
      *(f"--workdir=runs/{name}/seed-{seed}", f"--config.seed={seed}"),
      "--config.methods=('grpo',)",
    ]
    for name in ("full", "bare")
    for seed in (0, 3)
  ]
  assert not (grid / "runs").exists()


def test_runs_elsewhere(grid):
  """Each by the launcher, under a name that clouds take, with its flags and ours."""
  run = sweep(
    grid,
    "--configs=full.py,bare.py:x_Y",
    "--launcher=tpu_pod",
    "--launcher_flags=--zone=z --setup='a b'",
    "--dry_run",
    "--config.steps=3",
  )
  assert run.returncode == 0, run.stderr
  first, second = [shlex.split(line) for line in run.stdout.splitlines()]
  assert first[1:] == [
    *("-m", "launch.tpu_pod", "--name=fmd-full-0", "--zone=z", "--setup=a b"),
    *("--config=full.py", "--workdir=runs/full/seed-0", "--config.seed=0"),
    "--config.steps=3",
  ]
  assert second[3] == "--name=fmd-x-y-0"


def test_a_crash_ends_its_arm_only_and_the_next_call_goes_on(grid):
  arguments = ("--configs=full.py,crash.py,bare.py", "--config.steps=7")
  first = sweep(grid, *arguments)
  # Wrong: exit code 0, or an end at the crash, or no word about its reason.
  assert first.returncode == 1, first.stderr
  assert first.stderr.splitlines()[-1] == "error: failed: crash seed 0"
  lines = [line for line in first.stdout.splitlines() if line.startswith("[")]
  assert [line.split(": ")[0] for line in lines] == [
    f"[{place}/3] {name} seed 0"
    for place, name in ((1, "full"), (2, "crash"), (3, "bare"))
    for _ in range(2)
  ]
  assert lines[3].endswith("FAILED with exit code 3: error: out of luck")
  assert len(re.findall(r"  elapsed \d+:\d\d:\d\d", first.stdout)) == 3
  assert "Not finished: crash seed 0." in first.stdout
  table = json.loads((grid / "runs/table.json").read_text())
  assert {row["row"] for row in table["means"]} == {"zero_shot", "full", "bare"}

  (grid / "repaired").touch()
  second = sweep(grid, *arguments)
  assert second.returncode == 0, second.stderr
  assert "[1/3] full seed 0: finished before, skipped" in second.stdout
  runs = {name: started(grid / f"runs/{name}/seed-0") for name in ("full", "crash")}
  # Skipped by its name, not run once more.
  assert (len(runs["full"]), len(runs["crash"])) == (1, 2)
  wanted = ["--config=full.py", "--workdir=runs/full/seed-0", "--config.seed=0"]
  assert runs["full"][0] == [*wanted, "--config.steps=7"]

  text = (grid / "runs/table.md").read_text()
  assert text in second.stdout
  assert r"\begin{tabular}" in (grid / "runs/table.tex").read_text()
  assert "Not finished" not in text
  df = pd.read_csv(grid / "runs/table.csv")
  names = ["row", "metric", "protocol", "mean", "low", "high", "seeds", "paper"]
  assert list(df) == names
  ratio = df[(df["row"] == "crash") & (df["metric"] == "fdr_ratio")]
  # 3 of 4 wrong against Zero Shot's 2 of 4, which another arm ran.
  assert (ratio["protocol"].tolist(), ratio["mean"].tolist()) == (
    ["during", "after"],
    [1.5, 1.5],
  )
  assert df.loc[df["metric"] == "sd", "mean"].between(1, 4).all()

  # The finished runs are another config's: a table of them would be a lie.
  other = sweep(grid, "--configs=bare.py,full.py", "--config.steps=8")
  assert other.returncode != 0
  assert "another config: steps is 7 there and 8 here" in other.stderr
  assert "Traceback" not in other.stderr
  assert len(started(grid / "runs/bare/seed-0")) == 1


def test_table_only(grid):
  folder = grid / "runs" / "bare" / "seed-2"
  folder.mkdir(parents=True)
  (folder / "metrics.json").write_text('{"methods": {"grpo": {}}}')
  (folder / "evaluations").mkdir()
  rows = {"image_id": "i", "status": "unparsed", "question": "", "valid": None}
  pd.DataFrame([rows | {"correct": None}]).to_parquet(
    folder / "evaluations" / "grpo.parquet"
  )
  run = sweep(grid, "--configs=bare.py,full.py", "--seeds=2,", "--table_only")
  assert run.returncode == 0, run.stderr
  assert "Not finished: full seed 2." in (grid / "runs/table.md").read_text()
  assert not (folder / "started").exists()
  assert not (grid / "runs/full").exists()


def test_the_run_under_way_ends_with_the_sweep(grid):
  pid = grid / "runs/slow/seed-0/pid"
  with beside(grid, "--configs=slow.py") as process:
    while not (pid.exists() and pid.read_text()):
      assert process.poll() is None
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
  # Left alone it would go on for hours, beside the sweep that is started next.
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)


def test_jobs_run_side_by_side(grid):
  # One after another, the first would sleep for long before the second starts.
  with beside(grid, "--configs=slow.py,full.py", "--parallel=2") as process:
    for line in process.stdout:
      if line.startswith("[2/2] full seed 0: finished"):
        break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
  assert not (grid / "runs/slow/seed-0/metrics.json").exists()
  assert (grid / "runs/full/seed-0/metrics.json").exists()


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (["--configs=bare.py", "--config.stepz=3"], 'Did you mean "steps"'),
    (["--configs=none.py"], "none.py"),
    (["--configs=bare.py", "--seeds=0,x"], "--seeds 0,x: not whole numbers"),
    (["--configs=bare.py,bare.py"], "same workdir runs/bare/seed-0"),
    (["--configs=bare.py", "--config.seed=3"], "seeds by --seeds"),
    (["--grid=none.py"], "--grid none.py"),
    ([], "give --configs"),
  ],
)
def test_a_mistake_is_told_before_anything_runs(grid, arguments, expected):
  run = sweep(grid, *arguments)
  assert run.returncode != 0
  assert expected in run.stderr
  assert "Traceback" not in run.stderr
  assert not (grid / "runs").exists()


def test_a_grid_of_several_worlds(grid):
  (grid / "worlds.py").write_text(WORLDS)
  (grid / "one.py").write_text("def get_grid():\n  return {'configs': ['full.py']}\n")
  arguments = ("--grid=worlds.py", "--world=small", "--seeds=2", "--dry_run")
  run = sweep(grid, *arguments)
  assert run.returncode == 0, run.stderr
  folders = [line.split("--workdir=")[1].split()[0] for line in run.stdout.splitlines()]
  # Two seeds, 0 and 1; by the rows' own names, not by their files.
  assert folders == [
    f"runs/small-{name}/seed-{seed}" for name in ("full", "bare") for seed in (0, 1)
  ]
  # 3 methods in 2 runs each, 160 steps of 12 x 8 x 2.
  assert f"4 runs, {2 * 3 * 160 * 192:,} questions" in run.stderr
  for wrong, expected in (
    (("--grid=one.py", "--world=small"), "it has one world only"),
    (("--configs=full.py", "--world=small"), "--world chooses among those of a --grid"),
  ):
    run = sweep(grid, *wrong)
    assert run.returncode != 0 and expected in run.stderr
    assert "Traceback" not in run.stderr


def test_the_shipped_grid():
  """One arm has Zero Shot, the others leave it out; the paper's rows are arms."""
  run = subprocess.run(
    command("--grid=configs/grids/rewards.py", "--dry_run"),
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert len(run.stdout.splitlines()) == len(ablations.ROWS) * 3
  assert set(rewards.PAPER) <= {"zero_shot", *ablations.ROWS}
