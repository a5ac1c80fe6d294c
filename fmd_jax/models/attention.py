"""Attention of rows that may share a prompt's keys: the one place that chooses how.

On a TPU rows that are causal go through JAX's splash attention, which never has the
scores of more than a tile; a prompt's keys and those of its G rows are one row of keys
to it, and what a row may see is its mask. Elsewhere, and for masks of another kind, XLA
multiplies them out: one layer's scores in fp32, as a scan runs one layer at a time.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
S keys · H heads · KV key/value heads · R = H / KV · h width of a head.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float

from fmd_jax.models import layers
from fmd_jax.models.axes import Array
from fmd_jax.sharding import BATCH_AXES, TENSOR, batch_shards, platform

# Of the kernel's tiles, and what widths and lengths are padded to.
_LANES = 128
_TILES = (512, 256, 128)

# Queries whose scores a CPU's cache holds.
_BLOCK = 128

Keys = tuple[Array, Array, Array]


def attend(
  q: Float[Array, "B G T H h"],
  k: Float[Array, "B G S KV h"],
  v: Float[Array, "B G S KV h"],
  mask: Bool[Array, "..."] | None,
  shared: Keys | None,
) -> Float[Array, "B G T H h"]:
  """Softmax attention over the keys of a row and those its image shares.

  Args:
    q: queries.
    k: keys of the row's own tokens, of all of them where q are some.
    v: values likewise.
    mask: [B, G, T, S] or broadcast to it, which own keys a token sees. None: causal,
      its own and those before.
    shared: (k, v [B, P, KV, h], mask [B, P]) seen by every row of an image, or None.
  """
  if mask is None and platform() == "tpu" and q.shape[-1] % _LANES == 0:
    return fused(q, k, v, shared)
  if mask is None:
    return causal(q, k, v, shared)
  return multiplied(q, k, v, mask, shared)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _scores(q, k, keys: str) -> Float[Array, "B KV G T R S"]:
  """q [B, KV, G, T, R, h] times k, whose axes are `keys`, in fp32.

  Autodiff has the gradient of k as a product of the scores' transpose, and XLA copies
  all scores to turn them: the longest copy of an update. Turning the small result
  instead halves the time of attention's gradient on a CPU.
  """
  return jnp.einsum(f"bkgtrh,{keys}->bkgtrs", q, k, preferred_element_type=jnp.float32)


def _scores_forward(q, k, keys):
  return _scores(q, k, keys), (q, k)


def _scores_backward(keys, saved, gradient):
  q, k = saved
  to_q = jnp.einsum(
    f"bkgtrs,{keys}->bkgtrh", gradient, k, preferred_element_type=jnp.float32
  )
  batch = (0, 1, 2) if "g" in keys else (0, 1)
  summed = tuple(range(len(batch), 5))
  to_k = jax.lax.dot_general(
    q, gradient, ((summed, summed), (batch, batch)), preferred_element_type=jnp.float32
  )
  to_k = jnp.einsum(f"{'bkghs' if 'g' in keys else 'bkhs'}->{keys}", to_k)
  return to_q.astype(q.dtype), to_k.astype(k.dtype)


_scores.defvjp(_scores_forward, _scores_backward)


def multiplied(q, k, v, mask, shared) -> Float[Array, "B G T H h"]:
  """`attend` by products, for any mask."""
  shape, heads = q.shape, k.shape[3]
  q = q.reshape(*shape[:3], heads, -1, shape[-1]) * shape[-1] ** -0.5
  q = jnp.transpose(q, (0, 3, 1, 2, 4, 5))  # [B, KV, G, T, R, h]
  # Keys and values of each part, their einsum's axes, and the mask.
  parts = [("bgskh", k, v, mask[:, None, :, :, None])]
  if shared is not None:
    k, v, mask = shared
    parts.append(("bskh", k, v, mask[:, None, None, None, None]))
  scored = []
  for keys, k, v, mask in parts:
    scored.append((_scores(q, k, keys), mask, f"bkgtrs,{keys}->bkgtrh", v))
  return jnp.transpose(layers.mix(scored), (0, 2, 3, 1, 4, 5)).reshape(shape)


def causal(q, k, v, shared, block: int = _BLOCK) -> Float[Array, "B G T H h"]:
  """`attend` by products, `block` queries at a time: keys after them cost nothing."""
  length, mixed = q.shape[2], []
  for start in range(0, length, block):
    end = min(start + block, length)
    mask = np.arange(start, end)[:, None] >= np.arange(end)
    own = k[:, :, :end], v[:, :, :end]
    mixed.append(multiplied(q[:, :, start:end], *own, mask[None, None], shared))
  return jnp.concatenate(mixed, 2)


def _seen(group: int, length: int, prompt: int) -> np.ndarray:
  """Which of the keys (prompt, then row by row) the queries (row by row) see."""
  row, place = np.divmod(np.arange(group * length), length)
  own = (row[:, None] == row) & (place[:, None] >= place)
  return np.concatenate([np.ones((len(row), prompt), bool), own], 1)


def _padded(size: int) -> int:
  return -(-size // _LANES) * _LANES


def fused(
  q: Float[Array, "B G T H h"],
  k: Float[Array, "B G T KV h"],
  v: Float[Array, "B G T KV h"],
  shared: Keys | None,
  *,
  interpret: bool = False,
) -> Float[Array, "B G T H h"]:
  """`attend`, causal, by splash attention.

  Args:
    q, k, v, shared: see `attend`.
    interpret: run the kernel's program without a TPU, for a test.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  batch, group, length, heads, width = q.shape
  kv_heads, queries = k.shape[3], group * length
  keys = [(k, v, jnp.ones((batch, queries), bool))]
  if shared is not None:
    keys.insert(0, shared)
  prompt = 0 if shared is None else shared[0].shape[1]
  k, v = (
    jnp.concatenate([part[i].reshape(batch, -1, kv_heads, width) for part in keys], 1)
    for i in range(2)
  )
  real = jnp.concatenate([mask for _, _, mask in keys], 1)

  # Padded keys are seen by nobody; padded queries see what the last one does, as a row
  # without keys has no softmax.
  seen = _seen(group, length, prompt)
  more_q, more_k = (_padded(n) - n for n in seen.shape)
  seen = np.pad(np.pad(seen, ((0, more_q), (0, 0)), "edge"), ((0, 0), (0, more_k)))
  pad = lambda x, more: jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
  q = pad(q.reshape(batch, queries, kv_heads, -1, width) * width**-0.5, more_q)
  q = jnp.transpose(q, (0, 2, 3, 1, 4))  # [B, KV, R, queries, h]
  k, v = (jnp.swapaxes(pad(x, more_k), 1, 2) for x in (k, v))
  # A prompt's padding is a segment that no query is in.
  segments = kernels.SegmentIds(
    jnp.ones((batch, queries + more_q), jnp.int32),
    pad(real, more_k).astype(jnp.int32),
  )
  tile = lambda n: next(t for t in _TILES if n % t == 0)  # noqa: E731
  tile_q, tile_k = (tile(n) for n in seen.shape)

  def run(q, k, v, segments):
    kernel = kernels.make_splash_mqa_single_device(
      masks.MultiHeadMask([masks.NumpyMask(seen)] * q.shape[2]),
      block_sizes=kernels.BlockSizes(
        block_q=tile_q,
        block_kv=tile_k,
        block_q_dkv=tile_q,
        block_kv_dkv=tile_k,
        block_q_dq=tile_q,
        block_kv_dq=tile_k,
      ),
      interpret=interpret,
    )
    each = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    return jax.vmap(each)(q, k, v, segments)

  mixed = _each_device(run, batch, kv_heads, heads // kv_heads)(q, k, v, segments)
  mixed = jnp.transpose(mixed, (0, 3, 1, 2, 4))[:, :queries]
  return mixed.reshape(batch, group, length, heads, width)


def _each_device(run, batch: int, kv_heads: int, queries_each: int):
  """A kernel is one device's: here each runs it on its own images and heads."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return run
  images = BATCH_AXES if batch % batch_shards(mesh) == 0 else None
  tensor = mesh.shape[TENSOR]
  by_kv = TENSOR if kv_heads % tensor == 0 else None
  by_query = TENSOR if by_kv is None and queries_each % tensor == 0 else None
  q, keys = PartitionSpec(images, by_kv, by_query), PartitionSpec(images, by_kv)
  return jax.shard_map(
    run,
    in_specs=(q, keys, keys, PartitionSpec(images)),
    out_specs=q,
    check_vma=False,
  )
