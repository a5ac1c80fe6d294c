"""Zero Shot: the untrained questioner asks as many questions as GRPO would."""

import jax.numpy as jnp

from fmd_jax.methods.run import Run, ask_heldout, ask_training

NAME = "zero_shot"


def run(run: Run) -> None:
  """Asks, records and measures `config.steps` steps, then the unseen images."""
  params = run.agent.untrained(jnp.dtype(run.config.precision.compute))
  ask_training(run, NAME, params, range(run.config.steps), questioner_step=0)
  ask_heldout(run, NAME, params, questioner_step=0)
