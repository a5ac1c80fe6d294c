"""Zero Shot: the untrained questioner asks as many questions as GRPO would.

Nothing is trained, so nothing is rewarded: the rows have no reward, and the shards
themselves say where a run that was cut off goes on.
"""

import time

import jax.numpy as jnp
from flax import nnx

from fmd_jax import rollout
from fmd_jax.methods.run import Run, ask_heldout
from fmd_jax.progress import Progress
from fmd_jax.update import cast

NAME = "zero_shot"


def run(run: Run) -> None:
  """Asks, records and measures `config.steps` steps, then the unseen images."""
  config, agent = run.config, run.agent
  params = cast(nnx.state(agent.model), jnp.dtype(config.precision.compute))
  left = run.unrecorded(NAME, "train", config.steps)
  start = left[0] if left else config.steps
  measured = run.measurements(NAME, start)
  source = run.prepared(run.batches(start), config.steps - start)
  bar = Progress(range(start, config.steps), NAME, config.steps, initial=start)
  with run.stop.deferred():
    for step in bar:
      begun = time.perf_counter()
      images, inputs = next(source)
      samples = agent.sample(params, inputs, run.key(step))
      texts = agent.texts(samples)
      asked = time.perf_counter()
      result = run.judge(images, texts, None, step)
      numbers = rollout.measurements(result)
      measured.write(step, {**numbers, "time/sample": asked - begun})
      # The shard last: it is what marks the step as done.
      run.write(
        images, result, method=NAME, split="train", step=step, questioner_step=0
      )
      bar.set_postfix(fdr=f"{numbers['rollout/fdr']:.2f}", refresh=False)
  ask_heldout(run, NAME, params, questioner_step=0)
