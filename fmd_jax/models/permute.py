"""Gathers whose gradient is a gather too.

The gradient of a gather is a scatter-add, which is slow everywhere; where every source
row is used once, gathering by the inverse index gives the same.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from fmd_jax.models.axes import Array


@jax.custom_vjp
def pack(
  x: Float[Array, "N ..."],
  tokens: Int[Array, "W n"],
  slots: Int[Array, " N"],
  mask: Bool[Array, "W n"],
) -> Float[Array, "W n ..."]:
  """Lays N rows out as [W, n]; padding holds whatever row 0 is.

  Args:
    x: the rows.
    tokens: which row each place takes.
    slots: the place of each row in the flattened layout.
    mask: false on padding.
  """
  del slots, mask
  return x[tokens]


@jax.custom_vjp
def unpack(
  x: Float[Array, "W n ..."],
  tokens: Int[Array, "W n"],
  slots: Int[Array, " N"],
  mask: Bool[Array, "W n"],
) -> Float[Array, "N ..."]:
  """The inverse of `pack`; padding is dropped."""
  del tokens, mask
  return x.reshape(-1, *x.shape[2:])[slots]


def _zeroed(x: Array, mask: Array) -> Array:
  return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0)


def _pack_forward(x, tokens, slots, mask):
  return pack(x, tokens, slots, mask), (tokens, slots, mask)


def _pack_backward(index, gradient):
  # What reaches padding is dropped: its keys are masked, its queries unread.
  return unpack(gradient, *index), None, None, None


def _unpack_forward(x, tokens, slots, mask):
  return unpack(x, tokens, slots, mask), (tokens, slots, mask)


def _unpack_backward(index, gradient):
  tokens, slots, mask = index
  # Padding must get zero: a padded query's gradient would flow into real keys.
  return _zeroed(pack(gradient, tokens, slots, mask), mask), None, None, None


pack.defvjp(_pack_forward, _pack_backward)
unpack.defvjp(_unpack_forward, _unpack_backward)


@jax.custom_vjp
def permute(
  x: Float[Array, "M ..."], order: Int[Array, " M"], inverse: Int[Array, " M"]
) -> Float[Array, "M ..."]:
  """x[order], where `inverse` is argsort(order)."""
  del inverse
  return x[order]


def _permute_forward(x, order, inverse):
  return permute(x, order, inverse), (order, inverse)


def _permute_backward(index, gradient):
  order, inverse = index
  return permute(gradient, inverse, order), None, None


permute.defvjp(_permute_forward, _permute_backward)


@jax.custom_vjp
def fill(
  x: Float[Array, "S D"], features: Float[Array, "M D"], places: Bool[Array, " S"]
) -> Float[Array, "S D"]:
  """Replaces the rows of x at `places` by the features, in order.

  Features beyond the number of places are not used; places beyond the number of
  features keep the last feature (the host checks the counts).
  """
  index = jnp.clip(jnp.cumsum(places) - 1, 0, features.shape[0] - 1)
  return jnp.where(places[:, None], features[index].astype(x.dtype), x)


def _fill_forward(x, features, places):
  return fill(x, features, places), (places, features[:, :0])


def _fill_backward(saved, gradient):
  places, features = saved
  rows = jnp.nonzero(places, size=features.shape[0], fill_value=places.shape[0])[0]
  to_features = gradient.at[rows].get(mode="fill", fill_value=0)
  to_x = jnp.where(places[:, None], 0, gradient)
  return to_x, to_features.astype(features.dtype), None


fill.defvjp(_fill_forward, _fill_backward)
