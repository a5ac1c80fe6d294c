"""A tiny model, two prompts and a sampler of them, for the tests of this folder."""

import functools

import jax
import numpy as np
from flax import nnx

from fmd_jax import models
from fmd_jax.questioner import inputs, sampler
from tests.models import tiny

G, T = 8, 10


@functools.cache
def tiny_model():
  return tiny.model(seed=3)


@functools.cache
def tiny_prompts():
  # Two lengths and two image sizes: one offset for all rows would show.
  return tiny.prompts(tiny_model().config, [(4, 4), (6, 6)], [14, 22])


@functools.cache
def allowed_tokens():
  return models.sampleable_tokens(
    tiny_model().config, tiny.special_ids(), tiny.processor_vocabulary()
  )


@functools.cache
def made(group_size, temperature, allowed, steps, **more):
  config = tiny_model().config
  return sampler.make_sampler(
    nnx.graphdef(tiny_model()),
    group_size=group_size,
    max_new_tokens=steps,
    temperature=temperature,
    allowed_tokens=np.frombuffer(allowed, bool),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
    **more,
  )


def exact_inputs(prompts, config):
  """`make_inputs` without its buckets."""
  ids, lengths, pixels, grids = prompts
  prompt = inputs.make_prompt(ids, lengths, grids, config)
  return inputs.Inputs(prompt, pixels, models.vision_plan(grids, config.vision))


def arguments_of(model, prompts, seed=0, bucketed=False):
  make = (lambda p, c: inputs.make_inputs(*p, c)) if bucketed else exact_inputs
  return nnx.state(model), *make(prompts, model.config), jax.random.key(seed)


def sample(
  model,
  prompts,
  *,
  seed=0,
  allowed=None,
  group=G,
  temperature=1.0,
  steps=T,
  bucketed=False,
  **more,
):
  allowed = allowed_tokens() if allowed is None else allowed
  sample = made(group, temperature, allowed.tobytes(), steps, **more)
  arguments = arguments_of(model, prompts, seed, bucketed)
  return jax.tree.map(np.asarray, sample(*arguments))


def places_of(samples):
  return np.arange(samples.tokens.shape[-1]) < samples.lengths[..., None]


def log_softmax(logits):
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def short(model, ends=2, others=3):
  """A mask with which about one token in a few ends its response."""
  allowed = np.zeros_like(allowed_tokens())
  allowed[[*model.config.eos_token_ids[:ends], *range(5, 5 + others)]] = True
  return allowed
