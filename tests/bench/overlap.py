"""How long a step takes when the verifier is slow, against what it cannot be under.

  python tests/bench/overlap.py

GRPO on the embedded world with a verifier that takes twice as long as an update. With
`rollout.staleness` 1 the next batch is sampled while verdicts come in: a step should
take as long as sampling and update, or as answers and verdicts, whichever is longer.
Answerer and verifier sleep, so that nobody else has the cores; the rest is real.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from fmd_jax import data, inference, records, rollout, sharding  # noqa: E402
from fmd_jax.inference.engines.oracle import OracleEngine  # noqa: E402
from fmd_jax.methods import grpo  # noqa: E402
from fmd_jax.methods.run import Run  # noqa: E402
from fmd_jax.questioner.agent import Agent  # noqa: E402
from tests import players, runs  # noqa: E402

STEPS, WARM_UP = 20, 5


class Slow:
  """An answerer, or a verifier, that takes so many seconds for a batch."""

  name, revision = "slow", ""

  def __init__(self, reply, seconds: float):
    self._reply, self._seconds = reply, seconds

  def generate(self, requests):
    time.sleep(self._seconds)
    return self._reply(requests)


class Embedder:
  name, revision = "by hash", ""

  def embed(self, texts):
    return [players.embed(text) for text in texts]


class Timed(Run):
  """Notes when each step was over."""

  def write(self, *args, **kwargs):
    super().write(*args, **kwargs)
    if kwargs["split"] == "train":
      self.ends.append(time.perf_counter())

  def unrecorded(self, method, split, steps):
    return []  # no unseen images


def measure(agent, staleness: int, verifier_seconds: float, steps: int) -> dict:
  """Medians over the steps after the warm-up, in seconds."""
  config = runs.small_config(
    **{
      "images_per_step": 8,
      "group_size": 6,
      "steps": steps,
      "rollout.staleness": staleness,
      "checkpoint.every": 10**6,
      "data.train": "testbed://?split=train&size=64",
    }
  )
  answer = lambda requests: [inference.Reply(players.answer(r)) for r in requests]  # noqa: E731
  roles = rollout.Roles(
    Slow(answer, verifier_seconds / 20),
    Slow(OracleEngine().generate, verifier_seconds),
    Embedder(),
  )
  with tempfile.TemporaryDirectory() as folder, data.Workers(2, 64) as workers:
    train, heldout = data.open(config.data.train), data.open(config.data.heldout)
    folder = pathlib.Path(folder)
    run = Timed(config, folder, "id", agent, roles, train, heldout, workers)
    object.__setattr__(run, "ends", [])
    grpo.run(run)
    numbers = records.read_measurements(folder, "grpo")[WARM_UP:]
  walls = [b - a for a, b in zip(run.ends, run.ends[1:], strict=False)][WARM_UP - 1 :]
  parts = ("sample", "update", "answer", "verify")
  spent = {part: float(numbers[f"time/{part}"].mean()) for part in parts}
  return {**spent, "step": statistics.fmean(walls), "steps": len(walls)}


def main() -> None:
  config = runs.small_config()
  agent = Agent(
    inference.checkpoint_folder(config.roles.questioner),
    questions=config.questions_per_image,
    group_size=6,
    max_new_tokens=config.sampling.max_new_tokens,
    temperature=1.0,
    mesh=sharding.make_mesh(1, 1, 1),
  )
  # Once without a delay: it compiles, and tells how long an update takes.
  seconds = 2 * measure(agent, 1, 0.0, WARM_UP + 8)["update"]
  found = {}
  print(f"the verifier takes {seconds:.2f} s, twice an update; means of {STEPS} steps")
  print("staleness  sample  update  answer  verify    step  step / max")
  for staleness in (0, 1):
    times = measure(agent, staleness, seconds, WARM_UP + STEPS)
    bound = max(times["sample"] + times["update"], times["answer"] + times["verify"])
    found[staleness] = times | {"over": times["step"] / bound}
    cells = "".join(
      f"{times[part]:8.3f}" for part in ("sample", "update", "answer", "verify", "step")
    )
    print(f"{staleness:9d}{cells}{found[staleness]['over']:12.2f}", flush=True)
  result = {
    "step_over_max": round(found[1]["over"], 4),
    "step_over_max_synchronous": round(found[0]["over"], 4),
    "steps": found[1]["steps"],
    "verifier_seconds": round(seconds, 4),
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
