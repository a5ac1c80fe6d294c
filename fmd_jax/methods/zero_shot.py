"""Zero Shot: the untrained questioner asks as many questions as GRPO would."""

import time

import numpy as np
from flax import nnx
from tqdm import tqdm

from fmd_jax import data, rewards, rollout
from fmd_jax.checkpoint import Checkpoints
from fmd_jax.methods.run import Run, ask_heldout
from fmd_jax.records.measurements import Measurements
from fmd_jax.records.writer import drop_steps

NAME = "zero_shot"


def run(run: Run) -> None:
  """Asks, records and measures `config.steps` steps, then the unseen images."""
  config, agent = run.config, run.agent
  params = nnx.state(agent.model)
  banks, start = rewards.Banks(config.reward.prefix_length), 0
  # The only state is the memory, which the recorded rewards depend on.
  state = {"asked": np.zeros((), np.int32)}
  folder = run.workdir / "checkpoints" / NAME
  with Checkpoints(folder, config.checkpoint.keep) as checkpoints:
    if checkpoints.latest() is not None:
      saved = checkpoints.restore(state)
      start, banks = saved.step, rewards.Banks.from_state(saved.arrays, saved.meta)
    drop_steps(run.workdir, NAME, "train", start)
    measured = Measurements(run.workdir, NAME, start)
    source = data.batches(run.train, config.images_per_step, config.seed, start)
    steps = tqdm(range(start, config.steps), NAME, config.steps, initial=start)
    for step in steps:
      begun = time.perf_counter()
      images = next(source)
      samples = agent.sample(params, agent.prepare(images), run.key(step))
      texts = agent.texts(samples)
      asked = time.perf_counter()
      result = run.judge(images, texts, banks, step)
      run.write(
        images, result, method=NAME, split="train", step=step, questioner_step=0
      )
      numbers = rollout.measurements(result)
      measured.write(step, {**numbers, "time/sample": asked - begun})
      steps.set_postfix(fdr=f"{numbers['rollout/fdr']:.2f}", refresh=False)
      if (step + 1) % config.checkpoint.every == 0 or step + 1 == config.steps:
        arrays, meta = banks.state()
        state = {"asked": np.int32(step + 1)}
        checkpoints.save(step + 1, state, arrays, meta)
  ask_heldout(run, NAME, params, questioner_step=0)
