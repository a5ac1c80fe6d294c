"""What an update changes and what it leaves: trained, frozen and reference parameters.

The trained ones are fp32 masters whatever the model is computed in.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fmd_jax.models import lora
from fmd_jax.models.axes import Array, constrain_params

VISION = "visual"


class TrainState(NamedTuple):
  """What an update changes, and what it needs unchanged beside it.

  Attributes:
    step: updates so far.
    params: the trained part of the model's state.
    frozen: the rest of it.
    ref_params: the reference policy's values of what is trained; it shares `frozen`.
      Of a model with adapters these are adapters that add nothing.
    opt_state: the optimiser's.
  """

  step: Array
  params: nnx.State
  frozen: nnx.State
  ref_params: nnx.State
  opt_state: optax.OptState


def init_state(
  model: nnx.Module,
  optimizer: optax.GradientTransformation,
  freeze: Sequence[str] = (),
  *,
  beside: Sequence[str] = (),
  frozen_dtype: Any = None,
) -> TrainState:
  """The state before the first update; the model is its own reference policy.

  Args:
    model: its arrays are copied: the update may donate ours.
    optimizer: see `optim.make_optimizer`.
    freeze: dotted name prefixes that are not trained, "visual" for one. A model with
      adapters trains these only, and `freeze` is not asked.
    beside: prefixes that are trained in full beside the adapters.
    frozen_dtype: of the frozen and reference parameters; None: the model's.

  Raises:
    ValueError: a prefix names nothing.
  """

  def name(path: tuple) -> str:
    return ".".join(map(str, path))

  def is_under(path: tuple, prefixes: Sequence[str]) -> bool:
    return any(f"{name(path)}.".startswith(f"{prefix}.") for prefix in prefixes)

  paths = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
  for option, prefixes in (("freeze", freeze), ("beside", beside)):
    for prefix in prefixes:
      if not any(is_under(path, [prefix]) for path in paths):
        known = ", ".join(sorted({name(path[:1]) for path in paths}))
        raise ValueError(
          f"{option}: no parameter is under {prefix!r}; there are {known}"
        )
  adapted = any(map(lora.is_adapter, paths))

  def is_frozen(path: tuple, _: Any) -> bool:
    if adapted:
      return not (lora.is_adapter(path) or is_under(path, beside))
    return is_under(path, freeze)

  _, frozen, params = nnx.split(model, is_frozen, ...)

  # One program, not one for each shape of array; the two copies are two buffers.
  @jax.jit
  def start(params, frozen):
    copy = lambda tree, dtype: jax.tree.map(  # noqa: E731
      lambda x: jnp.array(x, dtype or x.dtype, copy=True), tree
    )
    masters = copy(params, jnp.float32)
    ref_params = copy(params, frozen_dtype)
    made = masters, copy(frozen, frozen_dtype), ref_params, optimizer.init(masters)
    return constrain_params(made, model.config)

  return TrainState(jnp.zeros((), jnp.int32), *start(params, frozen))


def trains_vision(state: TrainState) -> bool:
  """Whether a part of the vision tower is trained: image features then change."""
  return any(path[0] == VISION for path, _ in nnx.to_flat_state(state.params))


def cast(params: Any, dtype: Any) -> Any:
  """Parameters in another type; those of that type are left as they are."""
  return jax.tree.map(lambda x: x if x.dtype == dtype else x.astype(dtype), params)


def policy_params(state: TrainState, dtype: Any) -> tuple[nnx.State, nnx.State]:
  """The parameters for a sampler that computes what the update computes.

  Args:
    state: of the training.
    dtype: the update's `compute_dtype`; in fp32 the masters themselves are given.
  """
  return cast(state.params, dtype), cast(state.frozen, dtype)
