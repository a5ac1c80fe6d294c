"""Jitted sampling: image and prompt once, then G responses that share their keys.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
V vocabulary · F width of a visual token.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from fmd_jax import models, sharding
from fmd_jax.models.axes import Array
from fmd_jax.models.buckets import bucket


class Prompt(NamedTuple):
  """B prompts, right-padded.

  Attributes:
    input_ids: [B, P].
    lengths: [B] real tokens.
    positions: [3, B, P] M-RoPE positions.
    next_position: [B] the position of the first completion token.
  """

  input_ids: Int[Array, "B P"]
  lengths: Int[Array, " B"]
  positions: Int[Array, "3 B P"]
  next_position: Int[Array, " B"]


class Inputs(NamedTuple):
  """What the model sees of B images: the prompts and the pictures.

  Attributes:
    prompt: the B prompts.
    pixel_values: [N, patch], the patches of all images and rows of zeros after them;
      [parts, N, patch] on several devices, each with its own images.
    plan: `models.vision_plan` of the same images.
  """

  prompt: Prompt
  pixel_values: Float[Array, "N patch"] | Float[Array, "parts N patch"]
  plan: models.VisionPlan


class Samples(NamedTuple):
  """G responses to each of B prompts.

  Attributes:
    tokens: [B, G, T]; the pad id from `lengths` on.
    logprobs: [B, G, T] of the distribution sampled from; 0 from `lengths` on.
    lengths: [B, G] tokens, the end-of-sequence token included.
    image_features: [M, F] or [parts, M, F] of all images, for a trainer whose vision
      tower is frozen.
  """

  tokens: Int[Array, "B G T"]
  logprobs: Float[Array, "B G T"]
  lengths: Int[Array, "B G"]
  image_features: Float[Array, "M F"] | Float[Array, "parts M F"]


class _Decoding(NamedTuple):
  index: Array
  last: Array
  done: Array
  samples: Samples
  cache: Any


def make_prompt(
  input_ids: np.ndarray, lengths: np.ndarray, image_grid_thw: np.ndarray, config: Any
) -> Prompt:
  """Adds M-RoPE positions to right-padded token ids; NumPy, on the host.

  Args:
    input_ids: [B, P].
    lengths: [B].
    image_grid_thw: [I, 3] of all images, in row order.
    config: the model's.
  """
  positions, next_position = models.mrope_positions(
    input_ids, image_grid_thw, lengths, config
  )
  return Prompt(input_ids, lengths, positions, next_position)


def make_inputs(
  input_ids: np.ndarray,
  lengths: np.ndarray,
  pixel_values: np.ndarray,
  image_grid_thw: np.ndarray,
  config: Any,
  parts: int | None = None,
) -> Inputs:
  """Puts together what the model sees; NumPy, on the host.

  Unequal images are padded, in patches and in prompt: batches of photographs then
  share a few compiled programs. Equal ones keep their exact shapes.

  Args:
    input_ids: [B, P], right-padded.
    lengths: [B].
    pixel_values: [N, patch] of all images, in row order.
    image_grid_thw: [I, 3].
    config: the model's.
    parts: how many devices of this process each take a part of the rows and encode the
      part's images: patches and plan then have a leading axis of parts, and their
      shapes are those of all processes. None: all are encoded together.
  """
  visual = (input_ids == config.image_token_id).sum(1)
  if parts is None:
    plan = models.vision_plan(image_grid_thw, config.vision, bucketed=True)
    pixel_values = models.pad_patches(pixel_values, plan)
  else:
    tokens = image_grid_thw.prod(-1) // config.vision.merge_unit
    ends = np.cumsum(visual.reshape(parts, -1).sum(1))[:-1]
    first = np.searchsorted(np.cumsum(tokens), ends, "right")
    grids = np.split(image_grid_thw, first)
    plan = models.vision_plans(grids, config.vision, sharding.agree)
    pixel_values = models.pad_patches(pixel_values, plan, grids)
  width = input_ids.shape[1]
  if (image_grid_thw != image_grid_thw[0]).any():
    # Rounded apart: with one image a row, the second part is the plan's longest
    # frame, so that there are no more programs than plans.
    width = bucket(int((lengths - visual).max()), 8, 8) + bucket(int(visual.max()), 2)
  width = width if parts is None else int(sharding.agree(np.array(width)))
  if width != input_ids.shape[1]:
    padded = np.full((len(input_ids), width), config.pad_token_id, np.int32)
    kept = min(width, input_ids.shape[1])
    padded[:, :kept] = input_ids[:, :kept]
    input_ids = padded
  prompt = make_prompt(input_ids, lengths, image_grid_thw, config)
  return Inputs(prompt, pixel_values, plan)


def masked_logits(
  logits: Float[Array, "... V"],
  allowed_tokens: Bool[Array, " V"],
  temperature: float,
  top_p: float = 1.0,
  top_k: int = 0,
) -> Float[Array, "... V"]:
  """The logits of the distribution that is sampled from, -inf where it is 0.

  Args:
    logits: [..., V] fp32.
    allowed_tokens: [V].
    temperature: 0 (greedy) leaves the scale alone.
    top_p: smallest set of tokens with this much probability; 1 keeps all.
    top_k: this many tokens, ties kept; 0 keeps all.
  """
  logits = jnp.where(allowed_tokens, logits, -jnp.inf)
  if temperature:
    logits = logits / temperature
  if top_k:
    kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    logits = jnp.where(logits >= kth, logits, -jnp.inf)
  if top_p < 1:
    ordered = jnp.flip(jnp.sort(logits, -1), -1)
    probs = jax.nn.softmax(ordered, -1)
    # What precedes a token decides, so that the most likely one always stays.
    kept = jnp.cumsum(probs, -1) - probs < top_p
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits >= least, logits, -jnp.inf)
  return logits


def make_sampler(
  graphdef: nnx.GraphDef,
  *,
  group_size: int,
  max_new_tokens: int,
  temperature: float,
  allowed_tokens: np.ndarray,
  eos_ids: Sequence[int],
  pad_id: int,
  top_p: float = 1.0,
  top_k: int = 0,
) -> Callable[[Any, Prompt, Array, Any, Array], Samples]:
  """Makes the jitted sampler of one model structure.

  Args:
    graphdef: from `nnx.split(model)`.
    group_size: G.
    max_new_tokens: T.
    temperature: 0 is greedy.
    allowed_tokens: bool [V]; the others have probability 0, in sampling and in the
      recorded log-probs.
    eos_ids: tokens that end a response and belong to it.
    pad_id: fills the rest; it may be one of `eos_ids`.
    top_p: see `masked_logits`; training needs 1.
    top_k: see `masked_logits`; training needs 0.

  Returns:
    f(params, prompt, pixel_values [N, patch], plan, key) -> Samples, with the three in
    the middle as in `Inputs`. The parameters may be one state or a tuple of states.
  """
  if not np.any(allowed_tokens[list(eos_ids)]):
    raise ValueError("no end-of-sequence id may be sampled: no response would end")
  eos_ids = np.asarray(eos_ids, np.int32)

  def choose(logits: Array, key: Array) -> tuple[Array, Array]:
    """[B, G, V] -> tokens and log-probs [B, G]."""
    allowed = jnp.asarray(allowed_tokens, bool)
    logits = masked_logits(logits, allowed, temperature, top_p, top_k)
    if temperature:
      tokens = jax.random.categorical(key, logits)
    else:
      tokens = jnp.argmax(logits, -1)
    chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    return tokens.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, -1)

  def record(state: _Decoding, logits: Array, key: Array) -> _Decoding:
    tokens, logprobs = choose(logits, jax.random.fold_in(key, state.index))
    tokens = jnp.where(state.done, pad_id, tokens)
    samples = state.samples
    samples = samples._replace(
      tokens=samples.tokens.at[..., state.index].set(tokens),
      logprobs=samples.logprobs.at[..., state.index].set(
        jnp.where(state.done, 0.0, logprobs)
      ),
      lengths=samples.lengths + ~state.done,
    )
    return state._replace(
      index=state.index + 1,
      last=tokens,
      done=state.done | jnp.isin(tokens, eos_ids),
      samples=samples,
    )

  @jax.jit
  def sample(params, prompt, pixel_values, plan, key) -> Samples:
    states = params if isinstance(params, tuple) else (params,)
    model = nnx.merge(graphdef, *states)
    features = model.encode_images(pixel_values, plan)
    prompt_mask = jnp.arange(prompt.input_ids.shape[1]) < prompt.lengths[:, None]
    batch, length = prompt.input_ids.shape
    causal = jnp.tril(jnp.ones((length, length), bool)) & prompt_mask[:, None]
    hidden, prefix = model.language(
      model.embed(prompt.input_ids, features)[:, None],
      prompt.positions[:, :, None],
      causal[:, None],
    )
    last = jnp.take_along_axis(hidden[:, 0], prompt.lengths[:, None, None] - 1, axis=1)
    # [L, B, 1, P, KV, h] -> [L, B, P, KV, h]: one copy for the G responses.
    prefix = jax.tree.map(lambda x: x[:, :, 0], prefix)

    rows = (batch, group_size)
    layers, _, _, heads, head_dim = prefix[0].shape
    cache_shape = (layers, *rows, max_new_tokens, heads, head_dim)
    state = _Decoding(
      index=jnp.zeros((), jnp.int32),
      last=jnp.zeros(rows, jnp.int32),
      done=jnp.zeros(rows, bool),
      samples=Samples(
        tokens=jnp.full((*rows, max_new_tokens), pad_id, jnp.int32),
        logprobs=jnp.zeros((*rows, max_new_tokens), jnp.float32),
        lengths=jnp.zeros(rows, jnp.int32),
        image_features=features,
      ),
      cache=jax.tree.map(lambda x: jnp.zeros(cache_shape, x.dtype), prefix),
    )
    logits = model.unembed(last)  # [B, 1, V]
    state = record(state, jnp.broadcast_to(logits, (*rows, logits.shape[-1])), key)

    def unfinished(state: _Decoding) -> Array:
      return (state.index < max_new_tokens) & ~jnp.all(state.done)

    def decode(state: _Decoding) -> _Decoding:
      # `last` stands at place index - 1 of the completion.
      position = prompt.next_position + state.index - 1
      hidden, cache = model.language_step(
        model.embed(state.last, None),
        jnp.broadcast_to(position[None, :, None], (3, *rows)),
        prefix,
        prompt_mask,
        state.cache,
        state.index - 1,
      )
      return record(state._replace(cache=cache), model.unembed(hidden), key)

    return jax.lax.while_loop(unfinished, decode, state).samples

  return sample


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
  )
  samples = sample(params, *inputs, jax.random.key(seed))
  return tuple(
    np.asarray(x)[:, 0] for x in (samples.tokens, samples.logprobs, samples.lengths)
  )
