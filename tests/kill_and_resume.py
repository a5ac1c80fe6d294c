"""Kills a run (-9) at random moments, resumes it, and compares it with one that ran on:

  python -m tests.kill_and_resume [--kills 20] [--seed 0] [--small | --quick]
    [--workdir DIR]

The run is the quickstart: real models, a real sidecar, both methods, both protocols and
the evaluation; `--small` has a sixth of its steps. Moments are drawn over the whole of
it, with a pause of up to a step after the file that marks them, so that some fall in
the middle of a checkpoint. Records, evaluations, measurements but times, the trained
questioner and the last checkpoint must be the same, bit by bit. `--quick` plays it with
scripted models.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import pandas as pd

from fmd_jax import records

ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART = ("--config=configs/quickstart.py",)
SMALL = (
  *QUICKSTART,
  "--config.steps=24",
  "--config.images_per_step=6",
  "--config.group_size=4",
  "--config.data.train=testbed://?split=train&size=18",
  "--config.data.heldout=testbed://?split=heldout&size=24",
  "--config.checkpoint.every=5",
)
# A key's bias has no gradient but rounding, of which Adam makes a step of the full
# rate, in some direction, unless its epsilon is above that: `hosts_test` compares
# processes, whose rounding differs.
QUICK = ("--config=tests/runs.py", "--config.optimizer.eps=1e-6")


def start(workdir: pathlib.Path, flags: tuple[str, ...]) -> subprocess.Popen:
  """`launch.discover`, its output in discover.log."""
  workdir.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-m", "launch.discover", f"--workdir={workdir}", *flags]
  with open(workdir / "discover.log", "ab") as log:
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def done(workdir: pathlib.Path) -> int:
  """How far a run is: the shards and the parts of evaluations that are there."""
  shards = workdir.glob("records/*/*.parquet")
  return sum(1 for _ in shards) + sum(
    1 for _ in workdir.glob("evaluations/verdicts/*/*.parquet")
  )


def finish(workdir: pathlib.Path, flags: tuple[str, ...]) -> None:
  """Runs it to its end."""
  process = start(workdir, flags)
  try:
    code = process.wait()
  finally:
    process.kill()
  if code:
    raise SystemExit(f"exit code {code}, see {workdir / 'discover.log'}")


def kill_at(
  workdir: pathlib.Path, flags: tuple[str, ...], moment: int, pause: float
) -> bool:
  """Starts or resumes it and kills it at a moment; False when it ended before."""
  process = start(workdir, flags)
  try:
    while done(workdir) < moment and process.poll() is None:
      time.sleep(0.02)
    time.sleep(pause)
  finally:
    process.kill()
  return process.wait() < 0


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """What differs between two finished runs; times and the runs' own names may."""
  found = []
  names = sorted(path.name for path in (one / "records").iterdir())
  if names != sorted(path.name for path in (other / "records").iterdir()):
    return ["the methods"]
  for name in names:
    split = "heldout" if name.endswith("_heldout") else "train"
    method = name.removesuffix("_heldout")
    rows = [
      records.read(folder, method, split).drop(columns=["run_id", "wall_time"])
      for folder in (one, other)
    ]
    if not rows[0].equals(rows[1]):
      found.append(f"records/{name}")
    path = pathlib.Path("evaluations", f"{name}.parquet")
    if (one / path).read_bytes() != (other / path).read_bytes():
      found.append(str(path))
    if split == "train":
      numbers = [records.read_measurements(folder, method) for folder in (one, other)]
      times = [c for c in numbers[0] if c.startswith("time/")]
      if not numbers[0].drop(columns=times).equals(numbers[1].drop(columns=times)):
        found.append(f"measurements of {method}")
  for path in ("metrics.json", "questioner_hf/model.safetensors"):
    if (one / path).read_bytes() != (other / path).read_bytes():
      found.append(path)
  kept = [_last_checkpoint(folder) for folder in (one, other)]
  if kept[0] != kept[1]:
    found.append("the last checkpoint")
  return found


def _last_checkpoint(workdir: pathlib.Path) -> list:
  """Its step, sums over the bits of parameters, optimiser and banks, and what of the
  banks is no array."""
  folders = (workdir / "checkpoints" / "grpo").glob("[0-9]*/meta/metadata")
  path = max(folders, key=lambda path: int(path.parts[-3]))
  saved = json.loads(path.read_text())
  return [path.parts[-3], saved["sums"], saved["value"]["banks"]]


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--small", action="store_true")
  size.add_argument("--quick", action="store_true")
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--flag", action="append", default=[], help="for both runs")
  args = parser.parse_args()
  folder = args.workdir or pathlib.Path(tempfile.mkdtemp())
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax_cache"))
  flags = (*(QUICK if args.quick else SMALL if args.small else QUICKSTART), *args.flag)
  begun = time.monotonic()
  finish(folder / "whole", flags)
  moments = done(folder / "whole")
  spent = records.read_measurements(folder / "whole", "grpo").filter(like="time/")
  step = float(spent.sum(axis=1).median())
  print(f"uninterrupted: {time.monotonic() - begun:.0f} s, {moments} files", flush=True)
  rng = random.Random(args.seed)
  at = sorted(rng.uniform(0, moments) for _ in range(args.kills))
  killed = 0
  for moment in at:
    pause = rng.uniform(0, step)
    was = kill_at(folder / "killed", flags, int(moment), pause)
    killed += was
    how = "killed" if was else "had ended before"
    print(f"at {moment:.0f} of {moments} files + {pause:.2f} s: {how}", flush=True)
  finish(folder / "killed", flags)
  found = differences(folder / "whole", folder / "killed")
  rows = sum(
    len(pd.read_parquet(p)) for p in (folder / "killed").glob("records/*/*.parquet")
  )
  print(f"{killed} kills, {rows} rows, {time.monotonic() - begun:.0f} s in {folder}")
  print(json.dumps({"kills": killed, "rows": rows, "differences": found}))
  sys.exit(bool(found))


if __name__ == "__main__":
  main()
