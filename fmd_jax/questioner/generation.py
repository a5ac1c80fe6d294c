"""One call for one response to each prompt, from arrays as the processor gives them."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from fmd_jax import models
from fmd_jax.questioner.inputs import make_inputs
from fmd_jax.questioner.sampler import make_sampler


@functools.lru_cache(maxsize=8)
def _cached_sampler(
  graphdef: nnx.GraphDef, allowed_tokens: bytes, eos_ids: tuple[int, ...], **numbers
):
  return make_sampler(
    graphdef,
    group_size=1,
    allowed_tokens=np.frombuffer(allowed_tokens, bool),
    eos_ids=eos_ids,
    **numbers,
  )


def generate(
  model: Any,
  input_ids: np.ndarray,
  pixel_values: np.ndarray,
  image_grid_thw: np.ndarray,
  *,
  max_new_tokens: int,
  temperature: float,
  seed: int,
  attention_mask: np.ndarray | None = None,
  top_p: float = 1.0,
  top_k: int = 0,
  min_new_tokens: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Samples one response to each prompt, with all the tokens the config allows.

  Args:
    model: from `models.load`.
    input_ids: [B, P], images expanded, as the Hugging Face processor gives them.
    pixel_values: [N, patch], the patches of all images.
    image_grid_thw: [I, 3].
    max_new_tokens: T.
    temperature: 0 is greedy.
    seed: of the random numbers.
    attention_mask: [B, P] false on padding, left or right; None when there is none.
    top_p, top_k: see `masked_logits`.
    min_new_tokens: no response ends earlier.

  Returns:
    tokens [B, T], log-probs [B, T] and lengths [B] (the end token included).
  """
  input_ids = np.asarray(input_ids, np.int32)
  mask = np.ones(input_ids.shape, bool) if attention_mask is None else attention_mask
  mask = np.asarray(mask, bool)
  # A stable sort of "is padding" moves the padding right and keeps the order.
  order = np.argsort(~mask, axis=1, kind="stable")
  lengths = mask.sum(1).astype(np.int32)
  config = model.config
  inputs = make_inputs(
    np.take_along_axis(input_ids, order, 1),
    lengths,
    np.asarray(pixel_values),
    np.asarray(image_grid_thw),
    config,
  )
  graphdef, params = nnx.split(model)
  sample = _cached_sampler(
    graphdef,
    np.asarray(models.sampleable_tokens(config, ())).tobytes(),
    tuple(config.eos_token_ids),
    max_new_tokens=max_new_tokens,
    temperature=temperature,
    pad_id=config.pad_token_id,
    top_p=top_p,
    top_k=top_k,
    min_new_tokens=min_new_tokens,
  )
  samples = sample(params, *inputs, jax.random.key(seed))
  return tuple(
    np.asarray(x)[:, 0] for x in (samples.tokens, samples.logprobs, samples.lengths)
  )
