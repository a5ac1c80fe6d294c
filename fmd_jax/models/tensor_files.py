"""Safetensors files: any part of any tensor is read alone, and written one at a time.

Reads are `pread`, not `mmap`: a mapped page counts as the process's memory, and a part
of every row maps all rows. The format: 8 bytes with the length of the header, the
header (JSON: dtype, shape, place of each tensor), the tensors, row-major.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from fmd_jax.models.config import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
# Small enough that transposing a block stays in a core's cache.
BLOCK_BYTES = 2**20
_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 10**8  # the format's own limit


class CheckpointError(ConfigError):
  """A folder whose weights cannot be read; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where one tensor is: `offset` is in bytes from the start of `path`."""

  path: pathlib.Path
  dtype: np.dtype
  shape: tuple[int, ...]
  offset: int


class TensorReader:
  """The tensors of a folder, in one file or in the shards that its index names.

  Attributes:
    tensors: by name, from the files' headers.
    bytes_read: of tensors, headers not counted.
  """

  def __init__(self, folder: pathlib.Path):
    """Reads the headers.

    Raises:
      CheckpointError: a file is missing, cut short or not what the index says.
    """
    self.bytes_read = 0
    self._descriptors: dict[pathlib.Path, int] = {}
    index = folder / INDEX
    if index.is_file():
      try:
        files = json.loads(index.read_text())["weight_map"]
      except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{index} is not JSON with a weight_map") from None
      headers = {name: _header(folder / name) for name in sorted(set(files.values()))}
      missing = [name for name, file in files.items() if name not in headers[file]]
      if missing:
        name = min(missing)
        raise CheckpointError(
          f"{folder / files[name]} lacks {name}, which {INDEX} says"
        )
      self.tensors = {name: headers[file][name] for name, file in files.items()}
    elif (folder / WEIGHTS).is_file():
      self.tensors = _header(folder / WEIGHTS)
    else:
      raise CheckpointError(f"{folder} is not a checkpoint folder: it has no {WEIGHTS}")

  def __enter__(self) -> "TensorReader":
    return self

  def __exit__(self, *_) -> None:
    for descriptor in self._descriptors.values():
      os.close(descriptor)
    self._descriptors.clear()

  def blocks(
    self, name: str, rows: slice, columns: slice
  ) -> Iterator[tuple[slice, np.ndarray]]:
    """Reads part of a tensor seen as a matrix: its first axis by all the others.

    Args:
      name: of the tensor.
      rows: start and stop; the step is 1.
      columns: likewise.

    Yields:
      Blocks of rows, counted from `rows.start`, and what they hold.
    """
    tensor = self.tensors[name]
    row_width = math.prod(tensor.shape[1:])
    width, size = columns.stop - columns.start, tensor.dtype.itemsize
    count = max(BLOCK_BYTES // max(width * size, 1), 1)
    for start in range(rows.start, rows.stop, count):
      stop = min(start + count, rows.stop)
      block = np.empty((stop - start, width), tensor.dtype)
      at = tensor.offset + (start * row_width + columns.start) * size
      if width == row_width:
        self._read(tensor.path, block.reshape(-1), at)
      else:
        for i, row in enumerate(block):
          self._read(tensor.path, row, at + i * row_width * size)
      yield slice(start - rows.start, stop - rows.start), block

  def _read(self, path: pathlib.Path, into: np.ndarray, offset: int) -> None:
    if path not in self._descriptors:
      self._descriptors[path] = os.open(path, os.O_RDONLY)
    descriptor, buffer = self._descriptors[path], into.view(np.uint8).data
    while len(buffer):
      # One call reads 2 GB at most, and may always read less than asked.
      count = os.preadv(descriptor, [buffer], offset)
      if not count:
        raise CheckpointError(f"{path} has become shorter while it was read")
      self.bytes_read += count
      offset, buffer = offset + count, buffer[count:]


def _header(path: pathlib.Path) -> dict[str, Tensor]:
  if not path.is_file():
    raise CheckpointError(f"{path}, named by {INDEX}, is missing")
  size = path.stat().st_size
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
  try:
    header = json.loads(text)
    header.pop("__metadata__", None)
    start = 8 + length
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    kinds = {name: entry["dtype"] for name, entry in header.items()}
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
  except (ValueError, KeyError, TypeError, AttributeError):
    raise CheckpointError(f"{path} is not a safetensors file") from None
  tensors = {}
  for name, (begin, end) in places.items():
    if kinds[name] not in _DTYPES:
      raise CheckpointError(
        f"{path}: {name} is {kinds[name]}; {', '.join(_DTYPES)} can be read"
      )
    dtype, shape = _DTYPES[kinds[name]], shapes[name]
    if end - begin != math.prod(shape) * dtype.itemsize:
      raise CheckpointError(f"{path} is damaged: {name} is not as large as its shape")
    if start + end > size:
      raise CheckpointError(f"{path} is cut short: {name} ends behind it")
    tensors[name] = Tensor(path, dtype, shape, start + begin)
  return tensors


def copy(target: np.ndarray, source: np.ndarray) -> None:
  """target[...] = source, whatever their types and strides."""
  if target.dtype == source.dtype:
    # NumPy moves its own types several times faster than bfloat16.
    words = np.dtype(f"u{target.dtype.itemsize}")
    target, source = target.view(words), source.view(words)
  target[...] = source


def plan_shards(sizes: dict[str, int]) -> dict[str, list[str]]:
  """Which file holds which tensors: in order, none over `MAX_SHARD_BYTES`.

  Args:
    sizes: bytes by name.

  Returns:
    Names by file; a tensor that is too large has a file of its own.
  """
  shards, used = [[]], 0
  for name, size in sizes.items():
    if used and used + size > MAX_SHARD_BYTES:
      shards.append([])
      used = 0
    shards[-1].append(name)
    used += size
  if len(shards) == 1:
    return {WEIGHTS: shards[0]}
  last = len(shards)
  return {
    f"model-{i:05d}-of-{last:05d}.safetensors": names
    for i, names in enumerate(shards, 1)
  }


def write_file(
  path: pathlib.Path,
  shapes: dict[str, tuple[int, ...]],
  dtype: Any,
  tensors: Iterator[np.ndarray],
) -> None:
  """Writes one file, holding one tensor at a time.

  Args:
    path: of the file.
    shapes: by name, in the order of `tensors`.
    dtype: of all of them.
    tensors: row-major.
  """
  dtype = np.dtype(dtype)
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  place = 0
  for name, shape in shapes.items():
    end = place + math.prod(shape) * dtype.itemsize
    header[name] = {
      "dtype": _NAMES[dtype],
      "shape": list(shape),
      "data_offsets": [place, end],
    }
    place = end
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # readers map the tensors: aligned
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
      if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(
          f"{name} is {tensor.dtype} {tensor.shape}, not {dtype} {shape}"
        )
      file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def write_index(
  folder: pathlib.Path, shards: dict[str, list[str]], sizes: dict[str, int]
) -> None:
  """Says which file holds which tensor; `shards` and `sizes` as in `plan_shards`."""
  weight_map = {name: file for file, names in shards.items() for name in names}
  index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
  (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
