"""Safetensors files of a checkpoint folder <-> the model's parameters.

Names are read from the parameters' own paths: a stacked parameter
`language_model.layers.mlp.up_proj.kernel` is, layer by layer, the transpose of
`model.layers.{i}.mlp.up_proj.weight`.
"""

import functools
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from fmd_jax.models import config as configs
from fmd_jax.models import tensor_files
from fmd_jax.models.families import FAMILIES, Family
from fmd_jax.models.qwen_vl import QwenVL
from fmd_jax.models.tensor_files import CheckpointError

Path = tuple[str, ...]
Sharding = jax.sharding.Sharding
Shardings = Callable[[Path, tuple[int, ...]], Sharding] | Mapping[Path, Sharding]

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
_STACKS = ("blocks", "layers", "deepstack_merger_list")
# By `Family.nested`. The hub's names, which transformers also saves; transformers has
# all models' nested in memory, and older versions saved them so.
_ROOTS = (
  {"visual": "visual", "language_model": "model", "lm_head": "lm_head"},
  {
    "visual": "model.visual",
    "language_model": "model.language_model",
    "lm_head": "lm_head",
  },
)


def _template(path: Path, family: Family, nested: bool) -> str:
  """The file's name of a parameter, with {} for the layer where it is stacked."""
  words = [_ROOTS[nested][path[0]]]
  for word in path[1:-1]:
    words.append(family.modules.get(word, word))
    if word in _STACKS:
      words.append("{}")
  return ".".join([*words, _LEAVES[path[-1]]])


class FileTensor(NamedTuple):
  """A tensor of a file: its shape there, and which parameter or layer of one it is."""

  path: Path
  layer: int | None
  shape: tuple[int, ...]


def layout(
  state: nnx.State, config: configs.ModelConfig, nested: bool | None = None
) -> dict[str, FileTensor]:
  """What the files of a model hold, by name, in order.

  Args:
    state: the model's parameters, abstract or not.
    config: the model's.
    nested: names as transformers has them in memory; None: as the hub has them.
  """
  family = FAMILIES[config.model_type]
  nested = family.nested if nested is None else nested
  side, frames = config.vision.patch_size, config.vision.temporal_patch_size
  tensors = {}
  for path, variable in nnx.to_flat_state(state):
    template, shape, layers = _template(path, family, nested), variable.shape, (None,)
    if "{}" in template:
      layers, shape = range(shape[0]), shape[1:]
    if path[1] == "patch_embed" and path[-1] == "kernel":
      # A convolution whose stride is its size: a projection.
      shape = (shape[-1], config.vision.in_channels, frames, side, side)
    elif path[-1] == "kernel":
      shape = shape[::-1]
    for layer in layers:
      tensors[template.format(layer)] = FileTensor(path, layer, shape)
  return tensors


def _some(names: set[str]) -> str:
  shown = sorted(names)[:3]
  return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check(
  folder: pathlib.Path,
  found: dict[str, tensor_files.Tensor],
  wanted: dict[str, FileTensor],
  tied: bool,
) -> None:
  # A tied head may be stored all the same; rotary tables of old files are constants.
  left_over = {
    name
    for name in found.keys() - wanted.keys()
    if not name.endswith("inv_freq") and not (tied and name == "lm_head.weight")
  }
  missing = wanted.keys() - found.keys()
  if missing:
    raise CheckpointError(f"{folder} lacks the tensors {_some(missing)}")
  if left_over:
    raise CheckpointError(f"{folder} has unknown tensors {_some(left_over)}")
  for name, (_, _, shape) in wanted.items():
    if found[name].shape != shape:
      raise CheckpointError(
        f"{folder}: {name} has the shape {found[name].shape}, the config asks for"
        f" {shape}"
      )


def load(
  folder: str | pathlib.Path,
  dtype: Any = jnp.float32,
  shardings: Shardings | None = None,
) -> QwenVL:
  """Loads a Hugging Face checkpoint folder: its config and safetensors, nothing else.

  With `shardings`, each host reads only the bytes that its own devices hold, and has
  one device's part of one parameter in memory at a time.

  Args:
    folder: as transformers or the hub has it, in one file or in shards.
    dtype: of the parameters in memory.
    shardings: of each parameter: by its path in the state, or a function of path and
      shape. None puts all on JAX's default device.

  Raises:
    ConfigError: not a checkpoint folder, or one that is not supported.
    CheckpointError: tensors are missing, left over or of the wrong shape, or a file is
      cut short; found before anything is read.
  """
  folder = pathlib.Path(folder)
  config = configs.from_folder(folder)
  graphdef, abstract = nnx.split(
    nnx.eval_shape(lambda: QwenVL(config, rngs=nnx.Rngs(0), dtype=dtype))
  )
  with tensor_files.TensorReader(folder) as reader:
    nested = any(name.startswith("model.visual.") for name in reader.tensors)
    wanted = layout(abstract, config, nested)
    _check(folder, reader.tensors, wanted, config.tie_word_embeddings)
    names: dict[Path, list[str]] = {}
    for name, tensor in wanted.items():
      names.setdefault(tensor.path, []).append(name)

    loaded = []
    for path, variable in nnx.to_flat_state(abstract):
      sharding = None
      if shardings is not None:
        by_path = isinstance(shardings, Mapping)
        sharding = shardings[path] if by_path else shardings(path, variable.shape)
      stacked = wanted[names[path][0]].layer is not None
      read = functools.partial(
        _read, reader, names[path], stacked, path[-1] == "kernel", dtype
      )
      loaded.append((path, variable.replace(_place(read, variable.shape, sharding))))
  return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def _read(
  reader: tensor_files.TensorReader,
  names: list[str],
  stacked: bool,
  transposed: bool,
  dtype: Any,
  box: tuple[slice, ...],
) -> np.ndarray:
  """A part of one parameter: from each layer's tensor, if `stacked`."""
  array = np.empty([s.stop - s.start for s in box], dtype)
  layers, inner = [array], box
  if stacked:
    layers, inner, names = array, box[1:], names[box[0]]
  for layer, name in zip(layers, names, strict=True):
    if transposed:
      matrix, (columns, rows) = layer.T, inner
    else:
      rows, columns = inner if len(inner) == 2 else (*inner, slice(0, 1))
      matrix = layer.reshape(len(layer), -1)
    for place, block in reader.blocks(name, rows, columns):
      tensor_files.copy(matrix[place], block)
  return array


def _place(
  read: Callable[[tuple[slice, ...]], np.ndarray],
  shape: tuple[int, ...],
  sharding: Sharding | None,
) -> jax.Array:
  if sharding is None:
    return jnp.asarray(read(tuple(slice(0, n) for n in shape)))
  # Devices with the same part share one read of it.
  parts: dict[tuple, list] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    ends = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    parts.setdefault(ends, []).append(
      jax.sharding.SingleDeviceSharding(device, memory_kind=sharding.memory_kind)
    )
  arrays = []
  for ends, devices in parts.items():
    part = read(tuple(slice(*pair) for pair in ends))
    # Waited for: else the host would hold all parts that are on their way.
    arrays += jax.block_until_ready([jax.device_put(part, d) for d in devices])
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


@functools.partial(jax.jit, static_argnames=("transposed", "dtype"))
def _tensor(array, layer, *, transposed, dtype):
  """One layer as a file has it; a copy, so that the parameter keeps no host copy."""
  if layer is not None:
    array = jax.lax.dynamic_index_in_dim(array, layer, keepdims=False)
  return jnp.array(array.T if transposed else array, dtype, copy=True)


def _on_host(array: jax.Array) -> np.ndarray:
  if array.is_fully_addressable:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)


def save(
  model: QwenVL,
  folder: str | pathlib.Path,
  source: str | pathlib.Path | None = None,
  dtype: Any = None,
) -> None:
  """Writes a folder that transformers, vLLM and `load` read alike.

  The host holds one tensor at a time. All processes of a run call this together: each
  tensor is gathered from all of them, the first process writes.

  Args:
    model: to save.
    folder: made if missing; what it holds is replaced when all is written.
    source: a checkpoint folder whose tokenizer and processor files are copied.
    dtype: of the files; None: that of the word embeddings.
  """
  folder = pathlib.Path(folder)
  if dtype is None:
    dtype = model.language_model.embed_tokens.embedding.dtype
  dtype = np.dtype(dtype)
  state = nnx.state(model, nnx.Param)
  tensors, parameters = layout(state, model.config), dict(nnx.to_flat_state(state))

  def read(name: str) -> np.ndarray:
    path, layer, shape = tensors[name]
    array = _tensor(
      parameters[path][...], layer, transposed=path[-1] == "kernel", dtype=dtype
    )
    return _on_host(array).reshape(shape)

  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, tensors, dtype, read)
    if source is not None:
      _copy_files(pathlib.Path(source), folder)
    configs.to_folder(model.config, folder, dtype.name)
  else:
    for name in tensors:
      read(name)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"saved {folder}")


def _write(
  folder: pathlib.Path,
  tensors: dict[str, FileTensor],
  dtype: np.dtype,
  read: Callable[[str], np.ndarray],
) -> None:
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  sizes = {name: math.prod(s) * dtype.itemsize for name, s in shapes.items()}
  shards = tensor_files.plan_shards(sizes)
  # Under other names until all is written: `folder` may hold the last good export.
  written = {folder / f"{file}.part": folder / file for file in shards}
  for path, names in zip(written, shards.values(), strict=True):
    tensor_files.write_file(
      path, {name: shapes[name] for name in names}, dtype, map(read, names)
    )
  for old in folder.glob("model*.safetensors*"):
    if old not in written:
      old.unlink()
  for path, final in written.items():
    os.replace(path, final)
  if len(shards) > 1:
    tensor_files.write_index(folder, shards, sizes)


def _copy_files(source: pathlib.Path, folder: pathlib.Path) -> None:
  for path in source.iterdir():
    ours = path.name == "config.json" or ".safetensors" in path.name
    same = (folder / path.name).resolve() == path.resolve()
    if path.is_file() and not ours and not same:
      shutil.copyfile(path, folder / path.name)
