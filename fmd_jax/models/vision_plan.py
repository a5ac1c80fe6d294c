"""Which patch attends to which: index arrays made on the host from the image sizes.

Nothing here depends on pixels, so the tower compiles once per set of sizes. Attention
runs over segments (windows, or the frames of images) laid out as [segments, longest]:
the cost is linear in the number of images. Where all segments are equally long, as in a
batch of equal images, that layout is a reshape and no index is kept at all.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fmd_jax.models.buckets import bucket
from fmd_jax.models.config import VisionConfig

Grids = tuple[tuple[int, int, int], ...]


class Segments(NamedTuple):
  """A partition of the N patches, in their order, into runs that attend within.

  Attributes:
    mask: bool [segments, longest]; false on padding.
    tokens: int32 [segments, longest] the patch in each place (0 on padding), or None
      where all runs are equally long: then the layout is a reshape.
    slots: int32 [N] each patch's place in the flattened layout, or None likewise.
  """

  mask: np.ndarray
  tokens: np.ndarray | None
  slots: np.ndarray | None


class VisionPlan(NamedTuple):
  """Everything about a batch of images that the vision tower needs beside pixels.

  Attributes:
    order: int32 [M] groups of 4 patches, reordered so that windows are contiguous;
      None where they already are.
    inverse: int32 [M] undoes `order`; None likewise.
    positions: int32 [2, N] row and column of each patch, in the new order.
    windows: what window layers attend within.
    frames: what full layers attend within; None when these are the windows.
    taps: int32 [4, N] the entries of the position table that a patch lies between;
      None without a table.
    tap_weights: float32 [4, N] their weights; None likewise.
  """

  order: np.ndarray | None
  inverse: np.ndarray | None
  positions: np.ndarray
  windows: Segments
  frames: Segments | None
  taps: np.ndarray | None = None
  tap_weights: np.ndarray | None = None


def _segments(lengths: list[int], longest: int = 0, number: int = 0) -> Segments:
  """Lays runs out; at least `number` of them and places for `longest`."""
  longest = max(longest, *lengths)
  lengths = np.array(lengths + [0] * (number - len(lengths)))
  mask = np.arange(longest) < lengths[:, None]
  if mask.all():
    return Segments(mask, None, None)
  starts = np.cumsum(lengths) - lengths
  tokens = np.where(mask, starts[:, None] + np.arange(longest), 0)
  return Segments(mask, tokens.astype(np.int32), np.flatnonzero(mask).astype(np.int32))


def _cut(length: int, longest: int) -> list[int]:
  whole, rest = divmod(length, longest)
  return [longest] * whole + [rest] * (rest > 0)


class _Sizes(NamedTuple):
  """What bucketed plans of the same shapes are made for: maxima over their images."""

  groups: int
  minus_groups: int  # the fewest; negative, so that it is a maximum too
  frame: int
  windows: int
  frames: int


def _sizes(grids: Grids, config: VisionConfig) -> _Sizes:
  merge, side = config.spatial_merge_size, _window_side(config)
  groups = windows = frames = 0
  for times, height, width in grids:
    rows, columns = height // merge, width // merge
    groups += times * rows * columns
    windows += times * (-(-rows // side) * -(-columns // side) if side else 1)
    frames += times
  longest = max(height * width for _, height, width in grids)
  return _Sizes(groups, -groups, longest, windows, frames)


def _window_side(config: VisionConfig) -> int:
  """Merged tokens along a window's side; 0: there are no windows."""
  return config.window_size // config.spatial_merge_size // config.patch_size


def _windows_of_frame(rows: int, columns: int, side: int):
  """Merged tokens of one frame, window by window, and the windows' lengths."""
  index = np.arange(rows * columns).reshape(rows, columns)
  windows = [
    index[top : top + side, left : left + side].ravel()
    for top in range(0, rows, side)
    for left in range(0, columns, side)
  ]
  return np.concatenate(windows), [len(window) for window in windows]


def _taps(position: np.ndarray, size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
  """The two entries [2, n] of an axis that each place lies between, and their weights.

  The first place falls on the first entry and the last on the last. In fp32 and in
  this order, as transformers computes it.
  """
  at = position.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
  low = np.floor(at)
  entries = np.minimum(np.stack([low, low + 1]), side - 1).astype(np.int32)
  high_weight = at - low
  return entries, np.stack([1 - high_weight, high_weight])


def _table_taps(position: np.ndarray, height: int, width: int, side: int):
  """The four entries [4, n] of a square table around each patch, and their weights."""
  rows, row_weights = _taps(position[0], height, side)
  columns, column_weights = _taps(position[1], width, side)
  entries = rows[:, None] * side + columns
  weights = row_weights[:, None] * column_weights
  return entries.reshape(4, -1), weights.reshape(4, -1)


@functools.lru_cache(maxsize=256)
def _plan(grids: Grids, config: VisionConfig, sizes: _Sizes | None) -> VisionPlan:
  """The plan in its exact shapes, or in the shapes that belong to `sizes`."""
  merge, unit = config.spatial_merge_size, config.merge_unit
  side = _window_side(config)
  table_side = math.isqrt(config.num_position_embeddings)
  order, positions, windows, frames, taps = [], [], [], [], []
  start = 0
  for times, height, width in grids:
    if height % merge or width % merge or min(times, height, width) < 1:
      raise ValueError(f"image grid {times, height, width} is no multiple of {merge}")
    rows, columns = height // merge, width // merge
    in_frame, lengths = _windows_of_frame(rows, columns, side or max(rows, columns))
    row, column = np.divmod(in_frame, columns)
    # Patches come in groups of merge x merge, row by row within the group.
    row = (row[:, None, None] * merge + np.arange(merge)[:, None]).repeat(merge, 2)
    column = (column[:, None, None] * merge + np.arange(merge)).repeat(merge, 1)
    position = np.stack([row.ravel(), column.ravel()])
    for _ in range(times):
      order.append(start + in_frame)
      positions.append(position)
      if table_side:
        taps.append(_table_taps(position, height, width, table_side))
      windows += [unit * n for n in lengths]
      frames.append(height * width)
      start += rows * columns
  if sizes:
    # Padding patches attend among themselves, in segments of their own: left out of
    # all segments, they would have to be kept out of every gradient.
    padding = bucket(sizes.groups, 4) - start
    longest = bucket(sizes.frame, 2)
    full = unit * side**2 or longest
    most = unit * (bucket(sizes.groups, 4) + sizes.minus_groups)
    order.append(np.arange(start, start + padding))
    positions.append(np.zeros((2, unit * padding), int))
    if table_side:
      taps.append((np.zeros((4, unit * padding), np.int32),) * 2)
    windows += _cut(unit * padding, full)
    frames += _cut(unit * padding, longest)
    # One empty segment at least: with and without index arrays are two programs.
    number = bucket(sizes.windows + -(-most // full) + 1, 1)
    in_windows = _segments(windows, full, number)
    number = bucket(sizes.frames + -(-most // longest) + 1, 1)
    in_frames = _segments(frames, longest, number) if side else None
  else:
    in_windows = _segments(windows)
    in_frames = None if windows == frames else _segments(frames)
  order = np.concatenate(order).astype(np.int32)
  in_order = np.array_equal(order, np.arange(len(order)))
  # Whether there is an order must not depend on what a bucket holds.
  in_order = in_order and not (sizes and side)
  return VisionPlan(
    order=None if in_order else order,
    inverse=None if in_order else np.argsort(order).astype(np.int32),
    positions=np.concatenate(positions, 1).astype(np.int32),
    windows=in_windows,
    frames=in_frames,
    taps=np.concatenate([t for t, _ in taps], 1) if taps else None,
    tap_weights=np.concatenate([w for _, w in taps], 1).astype(np.float32)
    if taps
    else None,
  )


def _tuples(image_grid_thw: np.ndarray) -> Grids:
  grids = tuple(tuple(int(n) for n in grid) for grid in np.asarray(image_grid_thw))
  if not grids:
    raise ValueError("a vision plan needs at least one image")
  return grids


def vision_plan(
  image_grid_thw: np.ndarray, config: VisionConfig, *, bucketed: bool = False
) -> VisionPlan:
  """Plans the attention of a batch of images, on the host.

  Args:
    image_grid_thw: int [I, 3] frames, rows and columns of patches of each image.
    config: the vision tower's.
    bucketed: round the sizes of a batch of unequal images up, so that batches of
      photographs share a few compiled programs. Then pass the patches through
      `pad_patches`; visual tokens past those of the images mean nothing.

  Returns:
    NumPy arrays whose shapes depend on the grids alone.

  Raises:
    ValueError: no image, or a grid that does not divide into groups of patches.
  """
  grids = _tuples(image_grid_thw)
  mixed = bucketed and len(set(grids)) > 1
  return _plan(grids, config, _sizes(grids, config) if mixed else None)


def vision_plans(
  image_grid_thw: Sequence[np.ndarray],
  config: VisionConfig,
  agree: Callable[[np.ndarray], np.ndarray],
) -> VisionPlan:
  """Plans of the parts of a batch, each on devices of its own, in the same shapes.

  Args:
    image_grid_thw: [I, 3] of each part; bucketed as in `vision_plan` where any two
      images of the batch are unequal.
    config: the vision tower's.
    agree: the maximum of each number over all processes, see `sharding.agree`.

  Returns:
    One plan whose arrays have a leading axis of parts.
  """
  parts = [_tuples(grids) for grids in image_grid_thw]
  sizes = np.max([_sizes(grids, config) for grids in parts], 0)
  # A maximum and that of the negatives: equal where all parts are.
  kinds = np.array([(len(grids), *grid) for grids in parts for grid in grids])
  agreed = agree(np.concatenate([sizes, kinds.max(0), (-kinds).max(0)]))
  sizes, largest, smallest = np.split(agreed, [len(sizes), len(sizes) + 4])
  mixed = (largest != -smallest).any()
  shape = _Sizes(*sizes.tolist()) if mixed else None
  return jax.tree.map(
    lambda *arrays: np.stack(arrays), *(_plan(grids, config, shape) for grids in parts)
  )


def pad_patches(
  pixel_values: np.ndarray, plan: VisionPlan, image_grid_thw: Sequence[np.ndarray] = ()
) -> Float[np.ndarray, "N patch"] | Float[np.ndarray, "parts N patch"]:
  """Adds the rows of zeros that a bucketed plan counts on.

  Args:
    pixel_values: [N, patch] of the images alone.
    plan: of the same images.
    image_grid_thw: of each part, as `vision_plans` was given it.
  """
  counts = [int(np.prod(grids, -1).sum()) for grids in image_grid_thw]
  parts = np.split(pixel_values, np.cumsum(counts)[:-1]) if counts else [pixel_values]
  length = plan.positions.shape[-1]
  padded = [np.pad(p, ((0, length - len(p)), (0, 0))) for p in parts]
  return np.stack(padded) if counts else padded[0]
