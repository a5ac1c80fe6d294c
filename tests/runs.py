"""Small runs of the whole loop, shared by the end-to-end tests."""

import pathlib
import subprocess
import sys

from configs import ablations, quickstart

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 3


def small_config(**changes):
  """3 steps of 4 images x 3 responses x 2 questions on the embedded world, eq. 5."""
  config = quickstart.get_config()
  config.steps = STEPS
  config.images_per_step = 4
  config.group_size = 3
  config.data.train = "testbed://?split=train&size=8"
  config.data.heldout = "testbed://?split=heldout&size=4"
  config.checkpoint.every = 2
  config.sidecar.threads = 1
  config.update_from_flattened_dict(ablations.PAPER)
  config.update_from_flattened_dict(changes)
  return config


def played_config(**changes):
  """The same run with scripted models beside the questioner: no torch is loaded."""
  players = f"scripted://{ROOT / 'tests' / 'players.py'}"
  roles = {
    "roles.answerer": f"{players}:answer",
    "roles.embedder": f"{players}:embed",
  }
  return small_config(**roles | changes)


# So that this file is a --config too.
get_config = played_config


def launch(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
  """`python -m launch.discover …` as a user starts it."""
  return subprocess.run(
    [sys.executable, "-m", "launch.discover", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=timeout,
  )
