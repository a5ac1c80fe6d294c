"""Sampling: image and prompt once, then G responses that share their keys.

Three programs. `prefill` encodes the images, runs the prompts and draws the first
tokens. `decode` draws one token of every row after another, until the cache is full or
so many responses have ended that fewer rows would hold the rest. `regroup` then makes a
longer cache, or drops the rows that have ended, and `decode` goes on. Caches grow by
doubling and rows shrink by halving, so that there are few shapes to compile.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
S keys of the cache · V vocabulary · F width of a visual token.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from fmd_jax.models import decode as decoding
from fmd_jax.models.axes import Array
from fmd_jax.questioner.choice import choose, gumbel, masked_logits
from fmd_jax.questioner.inputs import Prompt
from fmd_jax.sharding import constrain

# Shorter caches cost nothing to read.
_LEAST_CACHE = 64
# Fewer places than this are not worth another program.
_LEAST_LEFT = 32


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


class Context(NamedTuple):
  """What decoding reads and does not change.

  Attributes:
    prefix: the prompts' keys and values, see `models.decode`.
    prompt_mask: [B, P] the real tokens.
    next_position: [B] see `Prompt`.
    images: [B] which of all images these are.
    rows: [B, G] which of its image's responses a row is.
  """

  prefix: decoding.Stacks
  prompt_mask: Bool[Array, "B P"]
  next_position: Int[Array, " B"]
  images: Int[Array, " B"]
  rows: Int[Array, "B G"]


class State(NamedTuple):
  """Responses that are being sampled; the rows are those of `Context.rows`.

  Attributes:
    index: how many tokens every row has.
    last: [B, G] the newest, not yet in the cache.
    done: [B, G] has ended.
    responses: tokens [B, G, T], log-probs [B, G, T] and lengths [B, G], see `Samples`.
    cache: keys and values of the tokens before the last, see `models.decode`.
  """

  index: Int[Array, ""]
  last: Int[Array, "B G"]
  done: Bool[Array, "B G"]
  responses: tuple[Array, Array, Array]
  cache: decoding.Stacks


def cache_lengths(max_new_tokens: int) -> list[int]:
  """The lengths a cache has one after another; the last holds all tokens."""
  lengths = [max_new_tokens]
  while lengths[0] >= 2 * _LEAST_CACHE:
    lengths.insert(0, -(-lengths[0] // 2))
  return lengths


def _smaller(images: int, rows: int, whole_images: bool) -> tuple[int, int]:
  """The next smaller shape that rows are grouped in: half of them, or none."""
  if rows > 1:
    return images, -(-rows // 2)
  if images > 1 and not whole_images:
    return -(-images // 2), 1
  return 0, 0


@dataclasses.dataclass(frozen=True)
class Sampler:
  """The sampler of one model structure; each program is jitted.

  Attributes:
    prefill: f(params, prompt, pixel_values, plan, key) -> context, state with a cache
      of the first length, image features.
    decode: f(params, context, state, key, smaller) -> state, int32 [3] of the tokens
      every row has, the images that have unfinished rows, and the most such rows an
      image has; it also stops when those fit in `smaller`, int32 [2], images and rows.
      The state is donated.
    regroup: f(context, state, images, rows, length) -> context and state of that shape,
      unfinished rows first.
    merge: f(responses of all rows, context, state) -> them, with those of the state.
    max_new_tokens: T.
    least_left: rows are dropped while at least this many tokens may follow.
  """

  prefill: Callable[..., tuple[Context, State, Array]]
  decode: Callable[..., tuple[State, Array]]
  regroup: Callable[..., tuple[Context, State]]
  merge: Callable[..., tuple[Array, Array, Array]]
  max_new_tokens: int
  least_left: int

  def __call__(
    self, params: Any, prompt: Prompt, pixel_values: Array, plan: Any, key: Array
  ) -> Samples:
    """Samples; the parameters are one state or a tuple of states, the rest `Inputs`."""
    context, state, features = self.prefill(params, prompt, pixel_values, plan, key)
    # Images lie on many devices: dropping some of them would move the others.
    whole_images = len(state.done.sharding.device_set) > 1
    shape, responses = state.done.shape, None
    index, images = 1, shape[0]
    while index < self.max_new_tokens and images:
      smaller = _smaller(*shape, whole_images)
      state, left = self.decode(params, context, state, key, np.array(smaller))
      index, images, rows = np.asarray(left).tolist()
      if index == self.max_new_tokens or not images:
        break
      if self.max_new_tokens - index >= self.least_left:
        while images <= smaller[0] and rows <= smaller[1]:
          shape, smaller = smaller, _smaller(*smaller, whole_images)
      # The first state has all rows, in their order.
      done = state.responses
      responses = done if responses is None else self.merge(responses, context, state)
      length = next(n for n in cache_lengths(self.max_new_tokens) if n >= index)
      context, state = self.regroup(context, state, *shape, length)
    done = state.responses
    responses = done if responses is None else self.merge(responses, context, state)
    return Samples(*responses, features)


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
  min_new_tokens: int = 0,
  scan_layers: bool | None = None,
  least_left: int = _LEAST_LEFT,
) -> Sampler:
  """Makes the sampler of one model structure.

  What a row draws depends on the key, its place among all B * G rows and the index of
  the token alone: not on which other rows are still there.

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
    min_new_tokens: no response ends earlier; training needs 0, because the scorer
      gives those places another distribution.
    scan_layers: see `models.decode`; None: as the default backend wants it.
    least_left: see `Sampler`.
  """
  if not np.any(allowed_tokens[list(eos_ids)]):
    raise ValueError("no end-of-sequence id may be sampled: no response would end")
  eos_ids = np.asarray(eos_ids, np.int32)
  if scan_layers is None:
    scan_layers = jax.default_backend() != "cpu"

  def merged(params: Any) -> Any:
    return nnx.merge(graphdef, *(params if isinstance(params, tuple) else (params,)))

  def record(context: Context, state: State, logits: Array, key: Array) -> State:
    """Draws a token of each row from logits [B, G, V]."""
    allowed = jnp.asarray(allowed_tokens, bool)
    if min_new_tokens:
      unending = allowed.at[eos_ids].set(False)
      allowed = jnp.where(state.index < min_new_tokens, unending, allowed)
    logits = masked_logits(logits, allowed, temperature, top_p, top_k)
    noise = None
    if temperature:
      rows = context.images[:, None] * group_size + context.rows
      noise = gumbel(jax.random.fold_in(key, state.index), rows, logits.shape[-1])
    drawn, logprobs = choose(logits, noise)
    drawn = jnp.where(state.done, pad_id, drawn).astype(jnp.int32)
    tokens, recorded, lengths = state.responses
    responses = (
      tokens.at[..., state.index].set(drawn),
      recorded.at[..., state.index].set(jnp.where(state.done, 0.0, logprobs)),
      lengths + ~state.done,
    )
    done = state.done | jnp.isin(drawn, eos_ids)
    return State(state.index + 1, drawn, done, responses, state.cache)

  @jax.jit
  def prefill(params, prompt, pixel_values, plan, key):
    model = merged(params)
    batch, length = prompt.input_ids.shape
    vocabulary = len(allowed_tokens)
    if batch * group_size * vocabulary >= 2**32:
      raise ValueError(f"{batch} x {group_size} rows need numbers past 2^32")
    features = model.encode_images(pixel_values, plan)
    prompt_mask = jnp.arange(length) < prompt.lengths[:, None]
    hidden, prefix = model.language(
      model.embed(prompt.input_ids, features)[:, None],
      prompt.positions[:, :, None],
      None,  # causal: a prompt's padding comes after it
      last=prompt.lengths - 1,
    )
    last = jnp.take_along_axis(hidden[:, 0], prompt.lengths[:, None, None] - 1, axis=1)
    # [L, B, 1, P, KV, h] -> [L, B, P, KV, h]: one copy for the G responses.
    prefix = jax.tree.map(lambda x: x[:, :, 0], prefix)
    prefix = decoding.prefix_stacks(prefix, 1 if scan_layers else len(prefix[0]))
    shape = (batch, group_size)
    context = Context(
      prefix,
      prompt_mask,
      prompt.next_position,
      jnp.arange(batch),
      jnp.broadcast_to(jnp.arange(group_size), shape),
    )
    state = State(
      index=jnp.zeros((), jnp.int32),
      last=jnp.zeros(shape, jnp.int32),
      done=jnp.zeros(shape, bool),
      responses=(
        jnp.full((*shape, max_new_tokens), pad_id, jnp.int32),
        jnp.zeros((*shape, max_new_tokens), jnp.float32),
        jnp.zeros(shape, jnp.int32),
      ),
      cache=decoding.empty_cache(prefix, group_size, cache_lengths(max_new_tokens)[0]),
    )
    logits = model.unembed(last)  # [B, 1, V]
    logits = jnp.broadcast_to(logits, (*shape, vocabulary))
    return context, record(context, state, logits, key), features

  def unfinished(state: State) -> tuple[Array, Array]:
    alive = jnp.sum(~state.done, 1, dtype=jnp.int32)
    return jnp.sum(alive > 0, dtype=jnp.int32), alive.max()

  @functools.partial(jax.jit, donate_argnums=2)
  def decode(params, context, state, key, smaller):
    model = merged(params)
    step = model.decoder(context.prefix, context.prompt_mask)
    head = model.head() if scan_layers else decoding.head_by_rows(*model.head())
    # The last token of all is drawn, but never read.
    end = min(max_new_tokens, state.cache[0][0].shape[-1] + 1)

    def goes_on(state: State) -> Array:
      images, rows = unfinished(state)
      fits = (images <= smaller[0]) & (rows <= smaller[1])
      fits &= state.index <= max_new_tokens - least_left
      return (state.index < end) & (images > 0) & ~fits

    def draw(state: State) -> State:
      place = state.index - 1  # of `last`
      positions = (context.next_position + place)[None, :, None]
      hidden, cache = step(
        model.embed(state.last, None),
        jnp.broadcast_to(positions, (3, *state.last.shape)),
        state.cache,
        place,
      )
      state = state._replace(cache=cache)
      return record(context, state, model.unembed(hidden, head), key)

    state = jax.lax.while_loop(goes_on, draw, state)
    return state, constrain(jnp.stack([state.index, *unfinished(state)]), None)

  @functools.partial(jax.jit, static_argnums=(2, 3, 4))
  def regroup(context, state, images, rows, length):
    shape = state.done.shape
    if images < shape[0]:
      # Only then: where images lie on many devices, even taking all of them in their
      # order would send every prompt's keys to all.
      kept = jnp.argsort(state.done.all(1), stable=True)[:images]
      cache = decoding.take_images(state.cache, kept, shape[0])
      prefix = jax.tree.map(lambda x: x[:, kept], context.prefix)
      rest = jax.tree.map(
        lambda x: x[kept],
        (context._replace(prefix=()), state._replace(index=(), cache=())),
      )
      context = rest[0]._replace(prefix=prefix)
      state = rest[1]._replace(index=state.index, cache=cache)
    order = jnp.argsort(state.done, axis=1, stable=True)[:, :rows]
    cache = decoding.take_rows(state.cache, order, shape[1], length)

    def take(x: Array) -> Array:
      if x.ndim < 2:
        return x
      places = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
      return jnp.take_along_axis(x, places, 1)

    state = jax.tree.map(take, state._replace(cache=()))._replace(cache=cache)
    return context._replace(rows=take(context.rows)), state

  @jax.jit
  def merge(responses, context, state):
    places = context.images[:, None], context.rows
    put = lambda whole, part: whole.at[places].set(part)  # noqa: E731
    return jax.tree.map(put, responses, state.responses)

  return Sampler(prefill, decode, regroup, merge, max_new_tokens, least_left)
