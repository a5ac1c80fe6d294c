"""SFT: the questioner is fine-tuned on questions that others found, then it asks.

corpus -> fine-tuning -> images -> questions -> answers -> verdicts

The corpus (`config.sft.corpus`) is other people's finds: benchmarks that models fail,
or on the testbed the failures of another answerer. Its questions are learned in the
format of RL's responses, so that the policy can be trained by GRPO afterwards.
"""

import jax.numpy as jnp
from absl import logging

from fmd_jax import data, sharding
from fmd_jax.checkpoint import Checkpoints
from fmd_jax.methods import training, tuning
from fmd_jax.methods.keeper import moving
from fmd_jax.methods.run import Run, ask_heldout, ask_training
from fmd_jax.update import TrainState, policy_params

NAME = "sft"


def run(run: Run) -> None:
  """Fine-tunes, asks `config.steps` steps, then about unseen images; nothing adapts."""
  state = fine_tuned(run)
  params = policy_params(state, jnp.dtype(run.config.precision.compute))
  updates = int(state.step)
  ask_training(run, NAME, params, range(run.config.steps), updates)
  ask_heldout(run, NAME, params, updates)


def fine_tuned(run: Run) -> TrainState:
  """The state after fine-tuning; made once in a workdir, whichever method needs it.

  Leaves the questioner in `questioner_hf_sft/`.
  """
  config, agent = run.config, run.agent
  corpus = data.open_corpus(
    tuple(config.sft.corpus), allow_noncommercial=config.sft.allow_noncommercial
  )
  for origin in corpus.origins:
    logging.info("fine-tuning on %s", origin)
  updates = tuning.updates_of(corpus, config.sft.epochs, config.images_per_step)

  # ---- state: from the folder, or from the last checkpoint -----------------------
  optimizer = training.make_optimizer(config, config.sft.learning_rate, updates)
  with sharding.use(agent.mesh):
    state = training.make_state(config, agent.model, optimizer)
  agent.release()
  update = tuning.make_update(config, agent, optimizer)
  folder = run.workdir / "checkpoints" / NAME
  with Checkpoints(folder, config.checkpoint.keep) as checkpoints:
    if checkpoints.latest() is not None:
      state = state._replace(**checkpoints.restore(moving(state)).state)

    # ---- the updates -------------------------------------------------------------
    done = int(state.step)
    state = tuning.fine_tune(
      run,
      f"{NAME} on {len(corpus)} images",
      corpus,
      state,
      update,
      range(done, updates),
      stream=0,
      measure=run.measurements(f"{NAME}_tuning", done).write,
      keep=lambda number, state: checkpoints.save(number, moving(state), {}, None),
    )
  run.export(state, f"questioner_hf_{NAME}")
  return state
