"""One token of every row at a time, against keys laid out for it.

Axes: B images · G responses per image · P prompt tokens · S keys of the cache ·
D width · L layers · KV key/value heads · R query heads of one of them · h width of a
head · N layers of one stack.

What one step reads is laid out once, before the loop over the tokens. A stack holds the
layers that one scan goes through. XLA's CPU backend copies a layer's weights and keys
out of a stack at every token, so there every layer is a stack of its own; elsewhere all
layers are one, which compiles in the time of one layer and needs no second copy.
"""

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
# cache's [N, B, KV, G, h, S] and [N, B, KV, G, S, h].
Stacks = tuple[tuple[Array, Array], ...]
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

  def zeros(x: Array, axis: int) -> Array:
    shape = list(x.shape)
    shape[axis] = length
    return _lie(jnp.zeros((*shape[:3], group_size, *shape[3:]), x.dtype))

  return tuple((zeros(keys, 4), zeros(values, 3)) for keys, values in prefix)


def take_rows(cache: Stacks, rows: Int[Array, "B G"], length: int) -> Stacks:
  """Some rows of each image's, in this order, with room for `length` tokens."""

  def take(x: Array, axis: int) -> Array:
    x = jnp.take_along_axis(x, rows[None, :, None, :, None, None], 3)
    more = [(0, 0)] * x.ndim
    more[axis] = (0, length - x.shape[axis])
    return _lie(jnp.pad(x, more))

  return tuple((take(keys, 5), take(values, 4)) for keys, values in cache)


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

    def layer(carry: Any, inputs: Any) -> tuple[Any, None]:
      (x, cache), (params, prefix, place) = carry, inputs
      block = nnx.merge(graphdef, params)
      q, k, v = block.self_attn.qkv(block.input_layernorm(x), cos, sin)
      new = (k.transpose(0, 3, 1, 4, 2)[None], v.transpose(0, 3, 1, 2, 4)[None])
      starts = ((place, 0, 0, 0, 0, index), (place, 0, 0, 0, index, 0))
      cache = tuple(
        jax.lax.dynamic_update_slice(old, kv.astype(old.dtype), start)
        for old, kv, start in zip(cache, new, starts)
      )
      own = (jax.lax.dynamic_index_in_dim(kv, place, keepdims=False) for kv in cache)
      mixed = _attend(q, prefix, prefix_mask, tuple(own), seen)
      x = constrain(x + block.self_attn.output(mixed), BATCH, "...", None)
      x = x + block.mlp(block.post_attention_layernorm(x))
      return (constrain(x, BATCH, "...", None), cache), None

    x, written = x[:, :, None], []
    for params, shared, own in zip(stacks, prefix, cache, strict=True):
      inputs = (params, shared, jnp.arange(len(own[0])))
      if len(own[0]) == 1:
        (x, own), _ = layer((x, own), jax.tree.map(lambda a: a[0], inputs))
      else:
        (x, own), _ = jax.lax.scan(layer, (x, own), inputs)
      written.append(own)
    return model.norm(x[:, :, 0]), tuple(written)

  return step


def _attend(
  q: Float[Array, "B G 1 H h"],
  prefix: tuple[Float[Array, "B KV h P"], Float[Array, "B KV P h"]],
  prefix_mask: Bool[Array, "B P"],
  own: tuple[Float[Array, "B KV G h S"], Float[Array, "B KV G S h"]],
  seen: Bool[Array, " S"],
) -> Float[Array, "B G 1 H h"]:
  batch, group, _, _, width = q.shape
  kv_heads = own[0].shape[1]
  heads = q.reshape(batch, group, kv_heads, -1, width) * width**-0.5
  heads = heads.transpose(0, 2, 1, 3, 4)  # [B, KV, G, R, h]
  mixed = layers.mix(
    [
      (
        jnp.einsum(
          f"bkgrh,{keys}->bkgrs", heads, k, preferred_element_type=jnp.float32
        ),
        mask,
        f"bkgrs,{values}->bkgrh",
        v,
      )
      for keys, values, (k, v), mask in (
        ("bkhs", "bksh", prefix, prefix_mask[:, None, None, None]),
        ("bkghs", "bkgsh", own, seen),
      )
    ]
  )
  return mixed.transpose(0, 2, 1, 3, 4).reshape(q.shape)
