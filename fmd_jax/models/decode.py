"""One token of every row at a time, against keys laid out for it.

Axes: B images · G responses per image · P prompt tokens · S keys of the cache ·
D width · L layers · KV key/value heads · R query heads of one of them · h width of a
head · N layers of one stack.

What one step reads is laid out once, before the loop over the tokens. A stack holds the
layers that one scan goes through. XLA's CPU backend copies a layer's weights and keys
out of a stack at every token, so there every layer is a stack of its own; elsewhere all
layers are one, which compiles in the time of one layer and needs no second copy.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from fmd_jax.models import layers
from fmd_jax.models.axes import KV_HEADS, Array
from fmd_jax.models.text import KV, TextModel, mrope_angles
from fmd_jax.sharding import BATCH, constrain

# Of each stack: a prompt's keys [N, B, KV, h, P] and values [N, B, KV, P, h], or a
# cache's [N, B, KV, G, h, S] and [N, B, KV, G, S, h]. A layer that is alone has a flat
# one, [B * KV * G, h, S] and [B * KV * G, S, h]: were it reshaped between writing and
# reading, XLA would copy it three times a token.
Stacks = tuple[tuple[Array, Array], ...]
# Of the products that end attention and MLP.
_PARTS = (2, 4)
Step = Callable[[Array, Array, Stacks, Array], tuple[Array, Stacks]]


def _lie(x: Float[Array, "N B KV ..."]) -> Float[Array, "N B KV ..."]:
  return constrain(x, None, BATCH, KV_HEADS, "...")


def prefix_stacks(prefix: KV, stacks: int) -> Stacks:
  """Lays out a prompt's keys and values.

  Args:
    prefix: [L, B, P, KV, h] each, from `QwenVL.language`.
    stacks: 1, or L.
  """
  keys = _lie(jnp.transpose(prefix[0], (0, 1, 3, 4, 2)))
  values = _lie(jnp.transpose(prefix[1], (0, 1, 3, 2, 4)))
  return tuple(zip(jnp.split(keys, stacks), jnp.split(values, stacks)))


def empty_cache(prefix: Stacks, group_size: int, length: int) -> Stacks:
  """A cache for `group_size` rows an image, of `length` tokens each."""

  def zeros(like: Array, *last: int) -> Array:
    shape = (*like.shape[:3], group_size, *last)
    return _cache_layout(jnp.zeros(shape, like.dtype))

  return tuple(
    (zeros(keys, keys.shape[-2], length), zeros(values, length, keys.shape[-2]))
    for keys, values in prefix
  )


def _cache_layout(x: Float[Array, "N B KV G ..."]) -> Array:
  return x.reshape(-1, *x.shape[4:]) if len(x) == 1 else _lie(x)


def take_images(cache: Stacks, images: Int[Array, " b"], count: int) -> Stacks:
  """The rows of some of `count` images, in this order."""

  def take(x: Array) -> Array:
    if x.ndim == 6:
      return x[:, images]
    return x.reshape(count, -1, *x.shape[1:])[images].reshape(-1, *x.shape[1:])

  return jax.tree.map(take, cache)


def take_rows(
  cache: Stacks, rows: Int[Array, "B G"], group_size: int, length: int
) -> Stacks:
  """Some rows of each image, in this order, with room for `length` tokens.

  Args:
    cache: of `group_size` rows an image.
    rows: which of them.
    group_size: of the cache.
    length: at least the cache's.
  """

  def take(x: Array, axis: int) -> Array:
    if x.ndim == 3:
      x = x.reshape(1, len(rows), -1, group_size, *x.shape[1:])
    x = jnp.take_along_axis(x, rows[None, :, None, :, None, None], 3)
    more = [(0, 0)] * x.ndim
    more[axis] = (0, length - x.shape[axis])
    return _cache_layout(jnp.pad(x, more))

  return tuple((take(keys, 5), take(values, 4)) for keys, values in cache)


def head_by_rows(weight: Array, axis: int) -> tuple[Array, int]:
  """The output head [D, V]: XLA's CPU backend multiplies by [V, D] at half the speed.

  Args:
    weight, axis: from `QwenVL.head`.
  """
  return (weight.T if axis else weight), 0


def make_step(
  model: TextModel, prefix: Stacks, prefix_mask: Bool[Array, "B P"]
) -> Step:
  """Makes the step of one loop; call it outside the loop, where it cuts the stacks.

  Args:
    model: the language model.
    prefix: from `prefix_stacks`.
    prefix_mask: the prompts' real tokens.

  Returns:
    f(x [B, G, D], positions [3, B, G], cache, index) -> hidden [B, G, D] after the
    final norm, and the cache. x are the rows' tokens at `index` of their completions,
    where their keys are written; what is cached behind is not seen.
  """
  graphdef, params = nnx.split(model.layers)
  stacks, first = [], 0
  for keys, _ in prefix:
    size = len(keys)
    stacks.append(jax.tree.map(lambda p, i=first, n=size: p[i : i + n], params))
    first += size

  def step(
    x: Float[Array, "B G D"],
    positions: Int[Array, "3 B G"],
    cache: Stacks,
    index: Int[Array, ""],
  ) -> tuple[Float[Array, "B G D"], Stacks]:
    angles = mrope_angles(positions[..., None], model.config)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    seen = jnp.arange(cache[0][0].shape[-1]) <= index

    def layer(x: Array, params: Any, prefix: Any, cache: Any, place: Any) -> Any:
      """`place` is the layer's in its stack; None: it is alone."""
      block = nnx.merge(graphdef, params)
      q, k, v = block.self_attn.qkv(block.input_layernorm(x), cos, sin)
      # [B, G, 1, KV, h] -> [B, KV, G, h, 1] and [B, KV, G, 1, h]
      new = (k.transpose(0, 3, 1, 4, 2), v.transpose(0, 3, 1, 2, 4))
      written = []
      for old, kv, axis in zip(cache, new, (-1, -2)):
        start = [0] * old.ndim
        start[axis] = index
        if place is not None:
          start[0] = place
        kv = kv[None] if place is not None else kv.reshape(-1, *kv.shape[-2:])
        written.append(jax.lax.dynamic_update_slice(old, kv.astype(old.dtype), start))
      own = written
      if place is not None:
        at_place = lambda kv: jax.lax.dynamic_index_in_dim(kv, place, keepdims=False)  # noqa: E731
        own = [at_place(kv) for kv in written]
      mixed = _attend(q, prefix, prefix_mask, tuple(own), seen)
      # Alone: on a CPU, where a product of few rows and columns keeps one core busy.
      parts = _PARTS if place is None else (1, 1)
      mixed = block.self_attn.output(mixed, parts[0])
      x = constrain(x + mixed, BATCH, "...", None)
      x = x + block.mlp(block.post_attention_layernorm(x), parts[1])
      return constrain(x, BATCH, "...", None), tuple(written)

    def scanned(carry: Any, inputs: Any) -> tuple[Any, None]:
      (x, cache), (params, prefix, place) = carry, inputs
      return layer(x, params, prefix, cache, place), None

    x, written = x[:, :, None], []
    for params, shared, own in zip(stacks, prefix, cache, strict=True):
      if own[0].ndim == 3:
        alone = jax.tree.map(lambda a: a[0], (params, shared))
        x, own = layer(x, *alone, own, None)
      else:
        (x, own), _ = jax.lax.scan(
          scanned, (x, own), (params, shared, jnp.arange(len(own[0])))
        )
      written.append(own)
    return model.norm(x[:, :, 0]), tuple(written)

  return step


def _attend(
  q: Float[Array, "B G 1 H h"],
  prefix: tuple[Float[Array, "B KV h P"], Float[Array, "B KV P h"]],
  prefix_mask: Bool[Array, "B P"],
  own: tuple[Float[Array, "*rows h S"], Float[Array, "*rows S h"]],
  seen: Bool[Array, " S"],
) -> Float[Array, "B G 1 H h"]:
  """One softmax over the keys that an image's rows share and each row's own."""
  keys, values = own
  batch, group, _, _, width = q.shape
  heads = q.reshape(batch, group, prefix[0].shape[1], -1, width) * width**-0.5
  heads = heads.transpose(0, 2, 1, 3, 4)  # [B, KV, G, R, h]
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  flat = lambda x: x.reshape(*keys.shape[:-2], *x.shape[3:])  # noqa: E731

  shared = product("bkgrh,bkhp->bkgrp", heads, prefix[0])
  shared = jnp.where(prefix_mask[:, None, None, None], shared, layers.MASKED)
  rest = product("...rh,...hs->...rs", flat(heads), keys)
  rest = jnp.where(seen, rest, layers.MASKED).reshape(*heads.shape[:-1], -1)
  top = jnp.maximum(shared.max(-1, keepdims=True), rest.max(-1, keepdims=True))
  shared, rest = jnp.exp(shared - top), jnp.exp(rest - top)
  total = shared.sum(-1, keepdims=True) + rest.sum(-1, keepdims=True)
  mixed = product("bkgrp,bkph->bkgrh", shared.astype(values.dtype), prefix[1])
  mixed += product(
    "...rs,...sh->...rh", flat(rest.astype(values.dtype)), values
  ).reshape(heads.shape)
  return (mixed / total).astype(q.dtype).transpose(0, 2, 1, 3, 4).reshape(q.shape)
