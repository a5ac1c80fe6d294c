"""The vision tower: patches -> visual tokens.

Axes: N patches · M visual tokens · I images · W segments · n places in a segment ·
D width of the language model · F = D times one and the number of deepstack layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from fmd_jax.models import layers
from fmd_jax.models.axes import Array
from fmd_jax.models.config import VisionConfig
from fmd_jax.models.permute import pack, permute, unpack
from fmd_jax.models.vision_plan import Segments, VisionPlan
from fmd_jax.sharding import platform

_NORM_EPS = 1e-6  # not in the config
# Queries whose scores a CPU's cache holds.
_BLOCK = 256


class VisionAttention(nnx.Module):
  """Attention within segments, with 2-D rotary embedding."""

  def __init__(self, config: VisionConfig, scale: float, dtype: Any, rngs: nnx.Rngs):
    width = config.hidden_size
    self.qkv = layers.linear(width, 3 * width, bias=True, dtype=dtype, rngs=rngs)
    self.proj = layers.linear(
      width, width, bias=True, dtype=dtype, rngs=rngs, scale=scale
    )
    self.heads = config.num_heads

  def __call__(self, x, cos, sin, windows, frames, is_full):
    qkv = self.qkv(x).reshape(x.shape[0], 3, self.heads, -1)
    q, k, v = (qkv[:, i] for i in range(3))
    q, k = layers.rotate(q, cos, sin), layers.rotate(k, cos, sin)
    if frames is None:
      mixed = _attend(q, k, v, windows)
    elif isinstance(is_full, bool):
      mixed = _attend(q, k, v, frames if is_full else windows)
    else:
      mixed = jax.lax.cond(
        is_full,
        lambda *qkv: _attend(*qkv, frames),
        lambda *qkv: _attend(*qkv, windows),
        q,
        k,
        v,
      )
    return self.proj(mixed.reshape(x.shape))


def _attend(q, k, v, segments: Segments) -> Float[Array, "N H h"]:
  """Softmax attention of every patch over the patches of its own segment."""
  shape, mask = segments.mask.shape, None
  if segments.tokens is None:
    q, k, v = (x.reshape(*shape, *x.shape[1:]) for x in (q, k, v))
  else:
    index = (segments.tokens, segments.slots, segments.mask)
    q, k, v = (pack(x, *index) for x in (q, k, v))
    mask = segments.mask[:, None, None, :]
  q = jnp.swapaxes(q * q.shape[-1] ** -0.5, 1, 2)
  k, v = jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2)
  # On a TPU the compiler cuts the products itself.
  block = _BLOCK if platform() == "cpu" else shape[1]
  mixed = jnp.swapaxes(_mixed(q, k, v, mask, block), 1, 2)
  if segments.tokens is None:
    return mixed.reshape(-1, *mixed.shape[2:])
  return unpack(mixed, *index)


def _mixed(q, k, v, mask, block: int) -> Float[Array, "W H n h"]:
  """Attention of scaled q [W, H, n, h] to k [W, H, h, n], in about `block` queries.

  All scores of a large image are more than a CPU's cache holds: head by head and block
  by block takes a quarter of the time.
  """
  windows, heads, length, width = q.shape
  blocks = -(-length // block)
  if blocks == 1:
    scores = jnp.einsum("whnd,whdm->whnm", q, k, preferred_element_type=jnp.float32)
    return layers.mix([(scores, mask, "whnm,whmd->whnd", v)])
  size = -(-length // blocks)
  q = jnp.pad(q, [(0, 0), (0, 0), (0, blocks * size - length), (0, 0)])
  q = q.reshape(-1, blocks, size, width)
  k, v = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
  if mask is not None:
    mask = jnp.broadcast_to(mask, (windows, heads, 1, length)).reshape(-1, 1, length)

  @jax.checkpoint  # the backward pass makes a block's scores again: it reads none
  def some(q, k, v, mask):
    scores = jnp.einsum("nd,dm->nm", q, k, preferred_element_type=jnp.float32)
    return layers.mix([(scores, mask, "nm,md->nd", v)])

  def head(arrays):
    q, *rest = arrays
    return jax.lax.map(lambda q: some(q, *rest), q)

  mixed = jax.lax.map(head, (q, k, v, mask))
  return mixed.reshape(windows, heads, -1, width)[:, :, :length]


def _norm(config: VisionConfig, width: int, dtype: Any) -> nnx.Module:
  kind = layers.LayerNorm if config.layer_norm else layers.RMSNorm
  return kind(width, _NORM_EPS, dtype)


class VisionBlock(nnx.Module):
  """One layer of the tower."""

  def __init__(self, config: VisionConfig, dtype: Any, rngs: nnx.Rngs):
    width, hidden = config.hidden_size, config.intermediate_size
    scale = (2 * config.depth) ** -0.5
    self.norm1 = _norm(config, width, dtype)
    self.norm2 = _norm(config, width, dtype)
    self.attn = VisionAttention(config, scale, dtype, rngs)
    more = {"scale": scale, "dtype": dtype, "rngs": rngs}
    if config.gated_mlp:
      self.mlp = layers.GatedMLP(width, hidden, bias=True, **more)
    else:
      self.mlp = layers.MLP((width, hidden, width), approximate=True, **more)

  def __call__(self, x, cos, sin, windows, frames, is_full):
    x = x + self.attn(self.norm1(x), cos, sin, windows, frames, is_full)
    return x + self.mlp(self.norm2(x))


class PatchMerger(layers.MLP):
  """Groups of 4 patches -> one token of the language model's width.

  Attributes:
    normed: width of the norm: a patch's, or a whole group's.
    merged: width of a group.
  """

  def __init__(self, config: VisionConfig, dtype: Any, rngs: nnx.Rngs, *, whole: bool):
    merged = config.hidden_size * config.merge_unit
    super().__init__(
      (merged, merged, config.out_hidden_size),
      approximate=False,
      scale=1.0,
      dtype=dtype,
      rngs=rngs,
    )
    self.normed, self.merged = merged if whole else config.hidden_size, merged
    self.ln_q = _norm(config, self.normed, dtype)

  def __call__(self, x: Float[Array, "N d"]) -> Float[Array, "M D"]:
    x = self.ln_q(x.reshape(-1, self.normed))
    return super().__call__(x.reshape(-1, self.merged))


class VisionTower(nnx.Module):
  """The ViT of Qwen2.5-VL (windows) or Qwen3-VL (position table, deepstack)."""

  def __init__(self, config: VisionConfig, dtype: Any, rngs: nnx.Rngs):
    self.config = config
    self.patch_embed = layers.linear(
      config.patch_width,
      config.hidden_size,
      bias=config.patch_bias,
      dtype=dtype,
      rngs=rngs,
    )
    if config.num_position_embeddings:
      self.pos_embed = nnx.Embed(
        config.num_position_embeddings,
        config.hidden_size,
        embedding_init=nnx.initializers.normal(0.02),
        param_dtype=dtype,
        rngs=rngs,
      )
    self.blocks = layers.stacked(
      config.depth, lambda rngs: VisionBlock(config, dtype, rngs), rngs
    )
    self.merger = PatchMerger(config, dtype, rngs, whole=False)
    if config.deepstack_visual_indexes:
      self.deepstack_merger_list = layers.stacked(
        len(config.deepstack_visual_indexes),
        lambda rngs: PatchMerger(config, dtype, rngs, whole=True),
        rngs,
      )

  def __call__(
    self,
    pixel_values: Float[Array, "N patch"],
    plan: VisionPlan,
    *,
    remat: bool | str = True,
  ) -> Float[Array, "M F"]:
    """Encodes all images of a batch.

    Args:
      pixel_values: patches of all images, as the processor gives them.
      plan: of the same images.
      remat: see `layers.REMAT`; recomputing each layer in the backward pass takes less
        memory, and on a CPU less time too.

    Returns:
      Visual tokens in the order of the images: the embedding [M, D], and along the
      last axis what is to be added after each of the language model's first layers.
    """
    config, unit = self.config, self.config.merge_unit
    x = self.patch_embed(pixel_values.astype(self.patch_embed.kernel.dtype))
    if plan.order is not None:
      x = permute(x.reshape(-1, unit * x.shape[-1]), plan.order, plan.inverse)
      x = x.reshape(-1, config.hidden_size)
    if plan.taps is not None:
      taps, weights = plan.taps, plan.tap_weights[..., None]
      table = self.pos_embed.embedding[...]
      x += sum(table[t] * w for t, w in zip(taps, weights)).astype(x.dtype)

    head_dim = config.hidden_size // config.num_heads
    frequencies = layers.inverse_frequencies(config.rope_theta, head_dim // 2)
    row, column = (p[:, None] * frequencies for p in plan.positions)
    angles = jnp.concatenate([row, column], -1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)

    full = np.isin(np.arange(config.depth), config.fullatt_block_indexes)
    # A condition is traced only where layers differ.
    same = bool(full[0]) if full.all() or not full.any() else None
    graphdef, params = nnx.split(self.blocks)

    def block(x, params, is_full):
      is_full = is_full if same is None else same
      layer = nnx.merge(graphdef, params)
      return layer(x, cos, sin, plan.windows, plan.frames, is_full)

    block = layers.rematerialised(block, remat)
    indexes = config.deepstack_visual_indexes
    slots, kept = None, None
    if indexes:
      # The last slot is for the layers that are not kept.
      slots = np.full(config.depth, len(indexes))
      slots[list(indexes)] = np.arange(len(indexes))
      kept = jnp.zeros((len(indexes) + 1, *x.shape), x.dtype)

    def step(carry, inputs):
      x, kept = carry
      params, is_full, slot = inputs
      x = block(x, params, is_full)
      if slot is not None:
        kept = jax.lax.dynamic_update_index_in_dim(kept, x, slot, 0)
      return (x, kept), None

    (x, kept), _ = jax.lax.scan(step, (x, kept), (params, full, slots))
    x = self.merger(x)
    if indexes:
      graphdef, params = nnx.split(self.deepstack_merger_list)
      merge = lambda params, x: nnx.merge(graphdef, params)(x)  # noqa: E731
      x = jnp.concatenate([x, *jax.vmap(merge)(params, kept[:-1])], -1)
    return x if plan.order is None else permute(x, plan.inverse, plan.order)
