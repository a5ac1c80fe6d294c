"""What the vision tower and the language model share: norm, projections, rotation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from fmd_jax.models import axes
from fmd_jax.models.axes import Array
from fmd_jax.sharding import constrain

# Finite: a row of keys that are all masked must not become NaN.
MASKED = -1e30

# What the forward pass of a layer keeps for the backward pass, from least memory to
# most: its input; the results of its projections too; everything.
REMAT = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "none": None,
}


def rematerialised(layer: Callable, remat: str | bool) -> Callable:
  """A layer of a scan that computes again in the backward pass what it did not keep.

  Args:
    layer: applied by `lax.scan`.
    remat: a key of `REMAT`; True is "full" and False "none".

  Raises:
    ValueError: there is no such policy.
  """
  remat = {True: "full", False: "none"}.get(remat, remat)
  if remat not in REMAT:
    raise ValueError(f"remat {remat!r} is not known; there are {', '.join(REMAT)}")
  if remat == "none":
    return layer
  # Within a scan nothing can be merged with what is computed again.
  return jax.checkpoint(layer, prevent_cse=False, policy=REMAT[remat])


def fan_in_init(scale: float = 1.0) -> Callable[..., Array]:
  """Normal with std scale / sqrt(inputs); `scale` shrinks residual branches."""
  return nnx.initializers.variance_scaling(scale**2, "fan_in", "normal")


class Linear(nnx.Linear):
  """A projection; one with adapters, see `lora`, adds their product.

  Attributes:
    lora_scale: of the product of `lora_a` and `lora_b`; None: there are none.
  """

  lora_scale: float | None = None

  def __call__(self, x: Float[Array, "... D"], parts: int = 1) -> Float[Array, "... E"]:
    """Projects; as the sum of so many products where the inputs divide into them."""
    kernel = self.kernel[...]
    if parts == 1 or len(kernel) % parts or self.bias is not None:
      y = super().__call__(x)
    else:
      cut = x.reshape(*x.shape[:-1], parts, -1)
      kernel = kernel.reshape(parts, -1, kernel.shape[-1])
      y = jnp.einsum("...pd,pde->p...e", cut, kernel).sum(0)
    if self.lora_scale is None:
      return y
    return y + (x @ self.lora_a[...]) @ self.lora_b[...] * self.lora_scale


def linear(
  inputs: int,
  outputs: int,
  *,
  bias: bool,
  dtype: Any,
  rngs: nnx.Rngs,
  scale: float = 1.0,
) -> Linear:
  """A projection with a [inputs, outputs] kernel (torch's is the transpose)."""
  return Linear(
    inputs,
    outputs,
    use_bias=bias,
    kernel_init=fan_in_init(scale),
    param_dtype=dtype,
    rngs=rngs,
  )


class RMSNorm(nnx.Module):
  """Root-mean-square norm, in fp32 whatever the model's type."""

  def __init__(self, width: int, eps: float, dtype: Any):
    self.scale = nnx.Param(jnp.ones((width,), dtype))
    self.eps = eps

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
    return self.scale[...] * y.astype(x.dtype)


class LayerNorm(nnx.Module):
  """Layer norm with a bias, in fp32 whatever the model's type."""

  def __init__(self, width: int, eps: float, dtype: Any):
    self.scale = nnx.Param(jnp.ones((width,), dtype))
    self.bias = nnx.Param(jnp.zeros((width,), dtype))
    self.eps = eps

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
    return (self.scale[...] * y + self.bias[...]).astype(x.dtype)


class GatedMLP(nnx.Module):
  """down(silu(gate(x)) * up(x))."""

  def __init__(
    self, width: int, hidden: int, *, bias: bool, scale: float, dtype: Any, rngs
  ):
    make = lambda i, o, s: linear(i, o, bias=bias, dtype=dtype, rngs=rngs, scale=s)  # noqa: E731
    self.gate_proj = make(width, hidden, 1.0)
    self.up_proj = make(width, hidden, 1.0)
    self.down_proj = make(hidden, width, scale)

  def __call__(self, x: Float[Array, "... D"], parts: int = 1) -> Float[Array, "... D"]:
    """Applies it; `parts` is that of the last projection."""
    hidden = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)
    return self.down_proj(constrain(hidden, "...", axes.MLP), parts)


class MLP(nnx.Module):
  """fc2(gelu(fc1(x))), with biases.

  Attributes:
    approximate: the tanh GELU; it is off the exact one by up to 1e-3.
  """

  def __init__(
    self,
    widths: tuple[int, int, int],
    *,
    approximate: bool,
    scale: float,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    inputs, hidden, outputs = widths
    self.fc1 = linear(inputs, hidden, bias=True, dtype=dtype, rngs=rngs)
    self.fc2 = linear(hidden, outputs, bias=True, dtype=dtype, rngs=rngs, scale=scale)
    self.approximate = approximate

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
    hidden = jax.nn.gelu(self.fc1(x), approximate=self.approximate)
    return self.fc2(constrain(hidden, "...", axes.MLP))


def stacked(depth: int, make: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs):
  """`depth` layers as one module whose parameters have a leading layer axis."""
  return nnx.split_rngs(splits=depth)(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def inverse_frequencies(theta: float, width: int) -> np.ndarray:
  """theta^(-2i / width) for i < width / 2, in fp32 as transformers computes it."""
  exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
  return (1.0 / np.float32(theta) ** exponents).astype(np.float32)


def rotate(
  x: Float[Array, "... H h"],
  cos: Float[Array, "... half"],
  sin: Float[Array, "... half"],
) -> Float[Array, "... H h"]:
  """Rotary embedding: the two halves of a head are the two coordinates. In fp32."""
  first, second = jnp.split(x.astype(jnp.float32), 2, -1)
  cos, sin = cos[..., None, :], sin[..., None, :]
  turned = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(turned, -1).astype(x.dtype)


def mix(
  parts: list[tuple[Float[Array, "..."], Bool[Array, "..."] | None, str, Array]],
) -> Float[Array, "... h"]:
  """Values weighted by one softmax over the keys of all parts, in fp32.

  The weights are divided by their sum after the values are mixed: normalised before,
  the backward pass needs a reduction over all scores, and takes a third longer.

  Args:
    parts: each with fp32 scores [..., S], a mask broadcast to them or None, the einsum
      of weights and values, and the values.
  """
  scores = [s if m is None else jnp.where(m, s, MASKED) for s, m, _, _ in parts]
  top = functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
  mixed, total = 0.0, 0.0
  for score, (_, _, product, values) in zip(scores, parts):
    weights = jnp.exp(score - jax.lax.stop_gradient(top))
    total += weights.sum(-1, keepdims=True)
    mixed += jnp.einsum(
      product,
      weights.astype(values.dtype),
      values,
      preferred_element_type=jnp.float32,
    )
  return (mixed / total).astype(parts[0][3].dtype)
