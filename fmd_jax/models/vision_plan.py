"""Which patch attends to which: index arrays made on the host from the image sizes.

Nothing here depends on pixels, so the tower compiles once per set of sizes. Attention
runs over segments (windows, or the frames of images) laid out as [segments, longest]:
the cost is linear in the number of images. Where all segments are equally long, as in a
batch of equal images, that layout is a reshape and no index is kept at all.
"""

import functools
from typing import NamedTuple

import numpy as np

from fmd_jax.models.config import VisionConfig


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
  """

  order: np.ndarray | None
  inverse: np.ndarray | None
  positions: np.ndarray
  windows: Segments
  frames: Segments | None


def _segments(lengths: np.ndarray) -> Segments:
  longest = int(lengths.max())
  mask = np.arange(longest) < lengths[:, None]
  if mask.all():
    return Segments(mask, None, None)
  starts = np.cumsum(lengths) - lengths
  tokens = np.where(mask, starts[:, None] + np.arange(longest), 0)
  return Segments(mask, tokens.astype(np.int32), np.flatnonzero(mask).astype(np.int32))


def _windows_of_frame(rows: int, columns: int, side: int):
  """Merged tokens of one frame, window by window, and the windows' lengths."""
  index = np.arange(rows * columns).reshape(rows, columns)
  windows = [
    index[top : top + side, left : left + side].ravel()
    for top in range(0, rows, side)
    for left in range(0, columns, side)
  ]
  return np.concatenate(windows), [len(window) for window in windows]


@functools.lru_cache(maxsize=256)
def _plan(grids: tuple[tuple[int, int, int], ...], config: VisionConfig) -> VisionPlan:
  merge, unit = config.spatial_merge_size, config.merge_unit
  side = config.window_size // merge // config.patch_size
  order, positions, window_lengths, frame_lengths = [], [], [], []
  start = 0
  for frames, height, width in grids:
    if height % merge or width % merge or min(frames, height, width) < 1:
      raise ValueError(f"image grid {frames, height, width} is no multiple of {merge}")
    rows, columns = height // merge, width // merge
    in_frame, lengths = _windows_of_frame(rows, columns, side)
    row, column = np.divmod(in_frame, columns)
    # Patches come in groups of merge x merge, row by row within the group.
    row = (row[:, None, None] * merge + np.arange(merge)[:, None]).repeat(merge, 2)
    column = (column[:, None, None] * merge + np.arange(merge)).repeat(merge, 1)
    for _ in range(frames):
      order.append(start + in_frame)
      positions.append(np.stack([row.ravel(), column.ravel()]))
      window_lengths += [unit * n for n in lengths]
      frame_lengths.append(height * width)
      start += rows * columns
  order = np.concatenate(order).astype(np.int32)
  in_order = np.array_equal(order, np.arange(len(order)))
  windows = _segments(np.array(window_lengths))
  same = window_lengths == frame_lengths
  return VisionPlan(
    order=None if in_order else order,
    inverse=None if in_order else np.argsort(order).astype(np.int32),
    positions=np.concatenate(positions, 1).astype(np.int32),
    windows=windows,
    frames=None if same else _segments(np.array(frame_lengths)),
  )


def vision_plan(image_grid_thw: np.ndarray, config: VisionConfig) -> VisionPlan:
  """Plans the attention of a batch of images, on the host.

  Args:
    image_grid_thw: int [I, 3] frames, rows and columns of patches of each image.
    config: the vision tower's.

  Returns:
    NumPy arrays whose shapes depend on the grids alone.

  Raises:
    ValueError: no image, or a grid that does not divide into groups of patches.
  """
  grids = tuple(tuple(int(n) for n in grid) for grid in np.asarray(image_grid_thw))
  if not grids:
    raise ValueError("a vision plan needs at least one image")
  return _plan(grids, config)
