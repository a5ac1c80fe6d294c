"""Logical axes -> mesh axes: the one table of how arrays lie on many devices.

A mesh has three axes. `data`: copies of everything, each with images of its own.
`fsdp`: images of its own too, but parameters, gradients and optimiser state are cut
across it, and a layer's parameters are gathered when the layer runs. `tensor`: every
device sees the same images and computes some of the heads, of the MLP's hidden width
and of the vocabulary.

  array            logical axes                     lies on
  ---------------  -------------------------------  ------------------------------------
  a batch          batch, …                         (data, fsdp), …
  q/k/v heads      batch, …, heads or kv_heads, h   (data, fsdp), …, tensor, -
  MLP hidden       batch, …, mlp                    (data, fsdp), …, tensor
  logits           batch, …, vocab                  (data, fsdp), …, tensor
  residual stream  batch, …, (width: no name)       (data, fsdp), …, -
  kernels          embed -> heads | kv_heads | mlp  fsdp -> tensor, back tensor -> fsdp
  embedding, head  vocab, embed                     tensor, fsdp
  vision kernels   vision_embed -> vision_*         fsdp -> tensor, and back
  norms, biases    (vectors)                        whole, or tensor after such a kernel

Optimiser state, gradients and reference lie as their parameters do. What a mesh axis
does not divide is whole on every device of that axis: key/value heads where `tensor` is
larger than they are, a batch of one image. A head is never cut: heads are counted in
heads, not in numbers. It is not an error, because the result is the same; what it
costs, `launch.tpu_fit` prints.

This module names no parameter: `models.param_shardings` knows which has which axes.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
BATCH = "batch"
BATCH_AXES = (DATA, FSDP)

TABLE: dict[str, str | tuple[str, ...]] = {
  BATCH: BATCH_AXES,
  "embed": FSDP,
  "heads": TENSOR,
  "kv_heads": TENSOR,
  "mlp": TENSOR,
  "vocab": TENSOR,
  "vision_embed": FSDP,
  "vision_heads": TENSOR,
  "vision_mlp": TENSOR,
  "merged": FSDP,
  "merged_mlp": TENSOR,
}


def make_mesh(
  data: int, fsdp: int, tensor: int, devices: Sequence[Any] | None = None
) -> Mesh:
  """A mesh over all devices.

  Args:
    data: copies of the model; of one of the three, -1 takes the devices that are left.
    fsdp: parts that parameters and optimiser state are cut into.
    tensor: parts that a layer's computation is cut into.
    devices: all that JAX has, of all processes, unless told.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes, count = [data, fsdp, tensor], len(devices)
  asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes))
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise ValueError(f"sharding {asked}: sizes are positive, and one may be -1")
  known = math.prod(s for s in sizes if s != -1)
  if count % known or (-1 not in sizes and known != count):
    raise ValueError(f"sharding {asked} does not fit {count} devices")
  sizes = [count // known if s == -1 else s for s in sizes]
  return jax.make_mesh(
    sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
  )


def use(mesh: Mesh) -> contextlib.AbstractContextManager:
  """Within it, `constrain` means this mesh; one device needs none, and gets none.

  For calls of jitted functions of whole arrays and for nothing else: what is computed
  outside of them belongs to one process alone.
  """
  return jax.set_mesh(mesh) if mesh.size > 1 else contextlib.nullcontext()


def batch_shards(mesh: Any = None) -> int:
  """How many parts a batch is cut into: of a mesh, or of the one in use."""
  mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  return math.prod(mesh.shape[a] for a in BATCH_AXES) if not mesh.empty else 1


def platform() -> str:
  """What is compiled for: "cpu", "gpu" or "tpu"; that of the mesh in use, if any."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device is not None else jax.default_backend()


def spec(
  axes: Sequence[str | None],
  shape: Sequence[int],
  mesh: Any,
  units: Mapping[str, int] | None = None,
) -> PartitionSpec:
  """What of an array a mesh splits, by the table.

  Args:
    axes: the logical name of each dimension; None: never split.
    shape: of the whole array.
    mesh: or an abstract one.
    units: of an axis, how many numbers must stay together (a head's width).
  """
  parts, taken = [], set()
  for name, size in zip(axes, shape, strict=True):
    target = TABLE.get(name)
    wanted = (target,) if isinstance(target, str) else target or ()
    whole = size // (units or {}).get(name, 1)
    fits = whole % math.prod(mesh.shape[a] for a in wanted) == 0
    if not wanted or not fits or taken & set(wanted):
      parts.append(None)
    else:
      parts.append(target)
      taken |= set(wanted)
  return PartitionSpec(*parts)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Says how an activation lies on the mesh in use; without one, x as it is.

  Args:
    x: inside a jitted function.
    axes: the logical name of each dimension; None: whole on every device; "..." stands
      for those that are left to the compiler.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  at = axes.index("...") if "..." in axes else len(axes)
  first, last = axes[:at], axes[at + 1 :]
  free = x.ndim - len(first) - len(last)
  parts = list(spec((*first, *(None,) * free, *last), x.shape, mesh))
  parts[at : at + free] = [PartitionSpec.UNCONSTRAINED] * free
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*parts))


def put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Puts on the devices an array that every process holds whole."""
  value = np.asarray(value)
  return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])


def join(value: np.ndarray, mesh: Mesh, axis: int = 0) -> jax.Array | np.ndarray:
  """Makes one array of the parts that the processes made of their own images.

  Args:
    value: this process's part, of the same shape on all; a mesh of one device leaves
      it alone.
    mesh: whose (data, fsdp) splits the axis.
    axis: along which the parts follow each other.

  Raises:
    ValueError: there are several processes and the axis does not split.
  """
  if mesh.size == 1:
    return value
  value = np.asarray(value)
  shape, names = list(value.shape), [None] * value.ndim
  shape[axis] *= jax.process_count()
  names[axis] = BATCH
  where = NamedSharding(mesh, spec(names, shape, mesh))
  if jax.process_count() > 1 and where.is_fully_replicated:
    raise ValueError(f"{shape[axis]} images do not split into {batch_shards(mesh)}")
  return jax.make_array_from_process_local_data(where, value, tuple(shape))


def own(value: jax.Array, axis: int = 0) -> np.ndarray:
  """This process's part of an array, as `join` was given it."""
  if value.is_fully_addressable:
    return np.asarray(value)
  starts = {s.index[axis].start or 0: s.data for s in value.addressable_shards}
  return np.concatenate([np.asarray(starts[i]) for i in sorted(starts)], axis)


def agree(sizes: np.ndarray) -> np.ndarray:
  """The largest of each number over all processes: their programs must be the same."""
  if jax.process_count() == 1:
    return sizes
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(np.asarray(sizes))).max(0)
