"""Safetensors files of a checkpoint folder <-> the model's parameters.

Names are read from the parameters' own paths: a stacked parameter
`language_model.layers.mlp.up_proj.kernel` is, layer by layer, the transpose of
`model.layers.{i}.mlp.up_proj.weight`.
"""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from fmd_jax.models import config as configs
from fmd_jax.models.families import FAMILIES, Family
from fmd_jax.models.qwen_vl import QwenVL

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
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


class CheckpointError(configs.ConfigError):
  """A folder whose weights cannot be read; the message is one line."""


def _template(path: tuple[str, ...], family: Family, nested: bool) -> str:
  """The file's name of a parameter, with {} for the layer where it is stacked."""
  words = [_ROOTS[nested][path[0]]]
  for word in path[1:-1]:
    words.append(family.modules.get(word, word))
    if word in _STACKS:
      words.append("{}")
  return ".".join([*words, _LEAVES[path[-1]]])


def _from_file(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
  if path[-1] != "kernel":
    return tensor
  # The patch embedding is a convolution whose stride is its size: a projection.
  return tensor.reshape(tensor.shape[0], -1).T


def _to_file(path, array: np.ndarray, config: configs.VisionConfig) -> np.ndarray:
  if path[-1] != "kernel":
    return array
  array = np.ascontiguousarray(array.T)
  if path[1] != "patch_embed":
    return array
  side, frames = config.patch_size, config.temporal_patch_size
  return array.reshape(-1, config.in_channels, frames, side, side)


class _Files:
  """The tensors of a folder, read one by one."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    index = folder / INDEX
    if index.is_file():
      self._files = json.loads(index.read_text())["weight_map"]
    elif (folder / WEIGHTS).is_file():
      self._files = dict.fromkeys(self._open(WEIGHTS).keys(), WEIGHTS)
    else:
      raise CheckpointError(f"{folder} is not a checkpoint folder: it has no {WEIGHTS}")
    self._opened = {}

  def _open(self, name: str):
    path = self._folder / name
    if not path.is_file():
      raise CheckpointError(f"{path}, named by {INDEX}, is missing")
    try:
      # "flax" reads bfloat16, which plain NumPy has not.
      return safetensors.safe_open(path, framework="flax")
    except Exception as error:
      raise CheckpointError(f"{path} is not a safetensors file: {error}") from None

  def names(self) -> set[str]:
    return set(self._files)

  def read(self, name: str) -> np.ndarray:
    file = self._files[name]
    if file not in self._opened:
      self._opened[file] = self._open(file)
    return np.asarray(self._opened[file].get_tensor(name))


def _some(names: set[str]) -> str:
  shown = sorted(names)[:3]
  return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load(folder: str | pathlib.Path, dtype: Any = jnp.float32) -> QwenVL:
  """Loads a Hugging Face checkpoint folder: its config and safetensors, nothing else.

  Args:
    folder: as transformers or the hub has it, in one file or in shards.
    dtype: of the parameters in memory.

  Raises:
    ConfigError: not a checkpoint folder, or one that is not supported.
    CheckpointError: tensors are missing, left over or of the wrong shape.
  """
  folder = pathlib.Path(folder)
  config = configs.from_folder(folder)
  files = _Files(folder)
  names = files.names()
  graphdef, abstract = nnx.split(
    nnx.eval_shape(lambda: QwenVL(config, rngs=nnx.Rngs(0), dtype=dtype))
  )
  nested = any(name.startswith("model.visual.") for name in names)
  family = FAMILIES[config.model_type]
  flat = list(nnx.to_flat_state(abstract))
  wanted = {}
  for path, variable in flat:
    template = _template(path, family, nested)
    depth = variable.shape[0] if "{}" in template else 1
    wanted[path] = [template.format(i) for i in range(depth)]
  expected = {name for group in wanted.values() for name in group}
  # A tied head may be stored all the same; rotary tables of old files are constants.
  left_over = {
    name
    for name in names - expected
    if not name.endswith("inv_freq")
    and not (config.tie_word_embeddings and name == "lm_head.weight")
  }
  if expected - names:
    raise CheckpointError(f"{folder} lacks the tensors {_some(expected - names)}")
  if left_over:
    raise CheckpointError(f"{folder} has unknown tensors {_some(left_over)}")

  loaded = []
  for path, variable in flat:
    array = np.empty(variable.shape, variable.dtype)
    stacked = "{}" in _template(path, family, nested)
    for i, name in enumerate(wanted[path]):
      tensor = _from_file(path, files.read(name))
      place = array[i] if stacked else array
      if tensor.shape != place.shape:
        raise CheckpointError(
          f"{folder}: {name} has the shape {tensor.shape} (as we store it), the config"
          f" asks for {place.shape}"
        )
      place[...] = tensor
    loaded.append((path, variable.replace(jnp.asarray(array))))
  return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def _tensors(model: QwenVL) -> Iterator[tuple[str, np.ndarray]]:
  family = FAMILIES[model.config.model_type]
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    template = _template(path, family, family.nested)
    array = np.asarray(jax.device_get(variable[...]))
    layers = array if "{}" in template else [array]
    for i, layer in enumerate(layers):
      yield template.format(i), _to_file(path, layer, model.config.vision)


def save(
  model: QwenVL,
  folder: str | pathlib.Path,
  source: str | pathlib.Path | None = None,
) -> None:
  """Writes a folder that transformers, vLLM and `load` read alike.

  Args:
    model: to save.
    folder: made if missing.
    source: a checkpoint folder whose tokenizer and processor files are copied.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  if source is not None:
    for path in pathlib.Path(source).iterdir():
      ours = path.name == "config.json" or ".safetensors" in path.name
      same = (folder / path.name).resolve() == path.resolve()
      if path.is_file() and not ours and not same:
        shutil.copyfile(path, folder / path.name)
  embedding = model.language_model.embed_tokens.embedding
  configs.to_folder(model.config, folder, jnp.dtype(embedding.dtype).name)

  shards, sizes = [{}], [0]
  for name, tensor in _tensors(model):
    if sizes[-1] and sizes[-1] + tensor.nbytes > MAX_SHARD_BYTES:
      shards.append({})
      sizes.append(0)
    shards[-1][name] = np.ascontiguousarray(tensor)
    sizes[-1] += tensor.nbytes
  for old in folder.glob("model*.safetensors*"):
    old.unlink()
  files = [WEIGHTS]
  if len(shards) > 1:
    last = len(shards)
    files = [f"model-{i:05d}-of-{last:05d}.safetensors" for i in range(1, last + 1)]
    weight_map = {name: file for file, shard in zip(files, shards) for name in shard}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
  for file, shard in zip(files, shards):
    safetensors.numpy.save_file(shard, folder / file, metadata={"format": "pt"})
