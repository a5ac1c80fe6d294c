"""The language model: rows that may share a prompt's keys and values.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
S keys · D width · F width with what deepstack adds · H heads · V vocabulary ·
L layers · KV key/value heads · R = H / KV · h width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from fmd_jax.models import layers
from fmd_jax.models.attention import attend
from fmd_jax.models.axes import HEADS, KV_HEADS, Array
from fmd_jax.models.config import TextConfig
from fmd_jax.sharding import BATCH, constrain

KV = tuple[Array, Array]


def mrope_angles(
  positions: Int[Array, "3 ..."], config: TextConfig
) -> Float[Array, "... half"]:
  """Rotation angles; each frequency follows one axis of position.

  Args:
    positions: time, row and column of each token.
    config: `mrope_section` says how many frequencies follow which axis: section by
      section, or interleaved, where rows and columns take every third from the
      second and the third on, and time takes what is left.
  """
  frequencies = layers.inverse_frequencies(config.rope_theta, config.head_dim)
  if config.mrope_interleaved:
    axis = np.zeros(len(frequencies), int)
    for i in (1, 2):
      axis[i : 3 * config.mrope_section[i] : 3] = i
    return jnp.moveaxis(jnp.asarray(positions)[axis], 0, -1) * frequencies
  sections = np.cumsum(config.mrope_section)[:-1]
  parts = np.split(frequencies, sections)
  return jnp.concatenate(
    [positions[i % 3][..., None] * part for i, part in enumerate(parts)], -1
  )


class Attention(nnx.Module):
  """Grouped-query attention."""

  def __init__(self, config: TextConfig, scale: float, dtype: Any, rngs: nnx.Rngs):
    width, head_dim = config.hidden_size, config.head_dim
    q_width = config.num_attention_heads * head_dim
    kv_width = config.num_key_value_heads * head_dim
    bias = config.attention_bias
    make = lambda i, o, **more: layers.linear(i, o, dtype=dtype, rngs=rngs, **more)  # noqa: E731
    self.q_proj = make(width, q_width, bias=bias)
    self.k_proj = make(width, kv_width, bias=bias)
    self.v_proj = make(width, kv_width, bias=bias)
    self.o_proj = make(q_width, width, bias=False, scale=scale)
    if config.qk_norm:
      self.q_norm = layers.RMSNorm(head_dim, config.rms_norm_eps, dtype)
      self.k_norm = layers.RMSNorm(head_dim, config.rms_norm_eps, dtype)
    self.qk_norm, self.head_dim = config.qk_norm, head_dim

  def qkv(self, x: Float[Array, "B G T D"], cos: Array, sin: Array):
    split = lambda y: y.reshape(*x.shape[:-1], -1, self.head_dim)  # noqa: E731
    q, k = split(self.q_proj(x)), split(self.k_proj(x))
    if self.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = layers.rotate(q, cos, sin), layers.rotate(k, cos, sin)
    q = constrain(q, BATCH, "...", HEADS, None)
    k, v = (
      constrain(y, BATCH, "...", KV_HEADS, None) for y in (k, split(self.v_proj(x)))
    )
    return q, k, v

  def output(
    self, mixed: Float[Array, "B G T H h"], parts: int = 1
  ) -> Float[Array, "B G T D"]:
    return self.o_proj(mixed.reshape(*mixed.shape[:-2], -1), parts)


def _residual(x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
  return constrain(x, BATCH, "...", None)


class DecoderLayer(nnx.Module):
  """One layer; `mask` and `shared` are as `attend` has them."""

  def __init__(self, config: TextConfig, dtype: Any, rngs: nnx.Rngs):
    width, scale = config.hidden_size, (2 * config.num_hidden_layers) ** -0.5
    self.input_layernorm = layers.RMSNorm(width, config.rms_norm_eps, dtype)
    self.post_attention_layernorm = layers.RMSNorm(width, config.rms_norm_eps, dtype)
    self.self_attn = Attention(config, scale, dtype, rngs)
    self.mlp = layers.GatedMLP(
      width, config.intermediate_size, bias=False, scale=scale, dtype=dtype, rngs=rngs
    )

  def __call__(self, x, cos, sin, mask, shared):
    """Returns the new x, and the keys and values of x's own tokens."""
    q, k, v = self.self_attn.qkv(self.input_layernorm(x), cos, sin)
    x = _residual(x + self.self_attn.output(attend(q, k, v, mask, shared)))
    return _residual(x + self.mlp(self.post_attention_layernorm(x))), (k, v)

  def ending(self, x, cos, sin, last):
    """Like a causal call, but of x [B, 1, T, D] only the token `last` [B] changes.

    After the last layer nobody reads the others, only their keys and values.
    """
    q, k, v = self.self_attn.qkv(self.input_layernorm(x), cos, sin)
    place = last[:, None, None, None]
    seen = jnp.arange(x.shape[2]) <= place
    q = jnp.take_along_axis(q, place[..., None], 2)
    one = jnp.take_along_axis(x, place, 2)
    one = _residual(one + self.self_attn.output(attend(q, k, v, seen, None)))
    one = _residual(one + self.mlp(self.post_attention_layernorm(one)))
    return jnp.where(jnp.arange(x.shape[2])[:, None] == place, one, x), (k, v)


class TextModel(nnx.Module):
  """Token embeddings, decoder layers applied by a scan, and the final norm."""

  def __init__(self, config: TextConfig, dtype: Any, rngs: nnx.Rngs):
    self.config = config
    self.embed_tokens = nnx.Embed(
      config.vocab_size,
      config.hidden_size,
      # Tied heads then start with logits of about unit variance.
      embedding_init=nnx.initializers.normal(config.hidden_size**-0.5),
      param_dtype=dtype,
      rngs=rngs,
    )
    self.layers = layers.stacked(
      config.num_hidden_layers, lambda rngs: DecoderLayer(config, dtype, rngs), rngs
    )
    self.norm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)

  def __call__(
    self,
    x: Float[Array, "B G T F"],
    positions: Int[Array, "3 B G T"],
    mask: Bool[Array, "#B #G #T T"] | None,
    prefix: KV | None = None,
    prefix_mask: Bool[Array, "B P"] | None = None,
    *,
    tap: int | None = None,
    last: Int[Array, " B"] | None = None,
    remat: bool | str = True,
  ):
    """See `QwenVL.language`."""
    x, *added = jnp.split(x, x.shape[-1] // self.config.hidden_size, -1)
    angles = mrope_angles(positions, self.config)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    graphdef, params = nnx.split(self.layers)
    # What deepstack adds is read layer by layer: cut into scans of their own, the
    # first layers would be copied, and so would the rest.
    added = jnp.stack(added) if added else None
    index = jnp.arange(self.config.num_hidden_layers)

    def layer(x, inputs):
      params, kv, index = inputs
      shared = None if kv is None else (*kv, prefix_mask)
      layer = nnx.merge(graphdef, params)
      if last is None:
        x, kv = layer(x, cos, sin, mask, shared)
      else:
        x, kv = jax.lax.cond(
          index == self.config.num_hidden_layers - 1,
          lambda x: layer.ending(x, cos, sin, last),
          lambda x: layer(x, cos, sin, mask, shared),
          x,
        )
      if added is not None:
        top = len(added) - 1
        x += jnp.where(index <= top, added[jnp.minimum(index, top)], 0)
      return x, kv

    layer = layers.rematerialised(layer, remat)
    inputs = (params, prefix, index)
    if tap is None:
      x, kv = jax.lax.scan(layer, x, inputs)
      return self.norm(x), kv
    first, rest = (
      jax.tree.map(lambda p, part=part: p[part], inputs)
      for part in (slice(None, tap), slice(tap, None))
    )
    tapped, kv_first = jax.lax.scan(layer, x, first)
    x, kv_rest = jax.lax.scan(layer, tapped, rest)
    kv = jax.tree.map(lambda *kvs: jnp.concatenate(kvs), kv_first, kv_rest)
    return self.norm(x), kv, tapped
