"""A run whose sidecar is killed ten times ends as if nothing had happened.

    python -m tests.bench.killed_sidecar [--kills 10] [--steps 50]    # minutes

GRPO on the embedded world, 50 steps of 4 images, 3 responses, 2 questions. Once with a
sidecar that lives, once with one that is killed (-9) at random times and started again
at the same port. Both have to leave the same rows, each once, with the same rewards.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # run as a script

from fmd_jax import records
from tests.ports import free_port

ROOT = pathlib.Path(__file__).parents[2]
KEY = ["step", "image_id", "response_index", "slot"]
ROLES = (
  "answerer=hf://testbed/answerer",
  "verifier=oracle://",
  "evaluator=oracle://",
  "embedder=minilm://",
)


class Sidecar:
  """A sidecar at one port that can be killed and started again."""

  def __init__(self, log: pathlib.Path):
    self.port, self._log = free_port(), log
    self.start()

  def start(self) -> None:
    command = [sys.executable, "-m", "launch.sidecar", "--port", str(self.port)]
    command += ["--threads", "1", *(f"--role={role}" for role in ROLES)]
    with open(self._log, "ab") as out:
      self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)

  def kill(self) -> None:
    self.process.send_signal(signal.SIGKILL)
    self.process.wait()


def run(
  workdir: pathlib.Path, steps: int, sidecar: Sidecar, kills: int
) -> tuple[pd.DataFrame, int]:
  """The rows of a run, and how often its sidecar was killed."""
  command = [
    sys.executable, "-m", "launch.discover", "--config", "configs/quickstart.py",
    "--workdir", str(workdir), f"--config.steps={steps}",
    "--config.images_per_step=4", "--config.group_size=3", "--config.methods=('grpo',)",
    "--config.data.train=testbed://?split=train&size=12",
    "--config.data.heldout=testbed://?split=heldout&size=4",
    f"--config.sidecar.address=127.0.0.1:{sidecar.port}",
  ]  # fmt: skip
  process = subprocess.Popen(command, cwd=ROOT)
  rng, done = random.Random(0), 0
  try:
    while process.poll() is None:
      progress = len(list(workdir.glob("records/grpo/*.parquet")))
      # Spread over the run, at any moment of a step.
      if done < kills and progress > (done + 0.5) * steps / (kills + 1):
        time.sleep(rng.uniform(0, 2))
        sidecar.kill()
        done += 1
        print(f"killed ({done}) after {progress} steps", flush=True)
        time.sleep(rng.uniform(0, 2))
        sidecar.start()
      time.sleep(0.1)
  finally:
    if process.poll() is None:
      process.kill()
    process.wait()
  if process.returncode:
    raise RuntimeError(f"the run ended with code {process.returncode}")
  rows = records.read(workdir, "grpo").drop(columns=["run_id", "wall_time"])
  return rows, done


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=10)
  parser.add_argument("--steps", type=int, default=50)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    sidecar = Sidecar(folder / "sidecar.log")
    try:
      begun = time.monotonic()
      calm, _ = run(folder / "calm", options.steps, sidecar, 0)
      calm_seconds = time.monotonic() - begun
      torn, kills = run(folder / "torn", options.steps, sidecar, options.kills)
      torn_seconds = time.monotonic() - begun - calm_seconds
    finally:
      sidecar.kill()
  pd.testing.assert_frame_equal(calm, torn)
  result = {
    "kills": kills,
    "steps": options.steps,
    "rows": len(torn),
    "rows_twice": int(torn.duplicated(KEY).sum()),
    "rows_lost": options.steps * 4 * 3 * 2 - len(torn),
    "rewards_equal": bool(calm["reward"].equals(torn["reward"])),
    "calm_seconds": calm_seconds,
    "torn_seconds": torn_seconds,
  }
  for name, value in result.items():
    print(f"{name:16} {value}")
  print(json.dumps(result))
  if kills < options.kills or result["rows_twice"] or result["rows_lost"]:
    sys.exit(1)


if __name__ == "__main__":
  main()
