"""What a config trains with: the loop runs it, and `fit` compiles it for a TPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx

from fmd_jax import models, optim, sharding
from fmd_jax.inference import Generator
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.remote import RemoteAgent
from fmd_jax.update import TrainState, init_state, make_rescore_fn, make_update_fn


def make_agent(config: ml_collections.ConfigDict, folder: str) -> Agent:
  """The questioner of a checkpoint folder, as the config lets it ask."""
  return Agent(
    folder,
    questions=config.questions_per_image,
    group_size=config.group_size,
    max_new_tokens=config.sampling.max_new_tokens,
    temperature=config.sampling.temperature,
    mesh=sharding.make_mesh(**config.sharding),
    gather=config.sampling.gather,
    adapt=functools.partial(adapted, config),
  )


def make_remote_agent(
  config: ml_collections.ConfigDict, generator: Generator
) -> RemoteAgent:
  """A questioner that is asked only, with the config's numbers."""
  return RemoteAgent(
    generator,
    questions=config.questions_per_image,
    group_size=config.group_size,
    max_new_tokens=config.sampling.max_new_tokens,
    temperature=config.sampling.temperature,
  )


def make_optimizer(
  config: ml_collections.ConfigDict,
  learning_rate: float | None = None,
  updates: int | None = None,
) -> optax.GradientTransformation:
  """The optimiser of `config.optimizer`, over `config.steps` updates.

  Fine-tuning has a rate of its own and another number of updates; 0 where that is not
  known, and the rate is then constant.
  """
  peak = config.optimizer.learning_rate if learning_rate is None else learning_rate
  updates = config.steps if updates is None else updates
  return optim.make_optimizer(
    optim.learning_rate_schedule(
      peak,
      warmup_steps=config.optimizer.warmup_steps,
      decay_steps=max(updates - config.optimizer.warmup_steps, 1) if updates else 0,
      end_scale=config.optimizer.end_scale,
    ),
    b1=config.optimizer.b1,
    b2=config.optimizer.b2,
    eps=config.optimizer.eps,
    weight_decay=config.optimizer.weight_decay,
    max_grad_norm=config.optimizer.max_grad_norm,
  )


def adapted(config: ml_collections.ConfigDict, model: nnx.Module) -> nnx.Module:
  """The model with the adapters of `config.lora`, or as it is."""
  return models.add_lora(
    model,
    rank=config.lora.rank,
    alpha=config.lora.alpha,
    targets=tuple(config.lora.targets),
    seed=config.seed,
  )


def make_state(
  config: ml_collections.ConfigDict,
  model: nnx.Module,
  optimizer: optax.GradientTransformation,
) -> TrainState:
  """The state before the first update."""
  return init_state(
    model,
    optimizer,
    tuple(config.optimizer.frozen),
    beside=tuple(config.lora.beside),
    frozen_dtype=jnp.dtype(config.precision.frozen),
  )


def make_update(
  config: ml_collections.ConfigDict,
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  allowed_tokens: np.ndarray,
  model: models.ModelConfig,
  **instead: Any,
) -> Callable:
  """The jitted update, see `make_update_fn`; `instead` are options of it."""
  options = {
    "beta": config.grpo.beta,
    "clip": config.grpo.clip,
    "loss": config.grpo.loss,
    "kl": config.grpo.kl,
    "clip_high": config.grpo.clip_high or config.grpo.clip,
    "max_length": config.sampling.max_new_tokens,
    "microbatch_tokens": config.grpo.microbatch_tokens,
    "compute_dtype": jnp.dtype(config.precision.compute),
    "remat": config.model.remat,
    "temperature": config.sampling.temperature,
    "allowed_tokens": allowed_tokens,
    "image_token_id": model.image_token_id,
  }
  return make_update_fn(graphdef, optimizer, **options | instead)


def make_rescore(
  config: ml_collections.ConfigDict, graphdef: nnx.GraphDef, allowed_tokens: np.ndarray
) -> Callable:
  """The jitted scorer of stale batches, see `make_rescore_fn`."""
  return make_rescore_fn(
    graphdef,
    temperature=config.sampling.temperature,
    allowed_tokens=allowed_tokens,
  )
