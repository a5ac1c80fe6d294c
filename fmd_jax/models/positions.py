"""M-RoPE positions: time, row and column of every token; NumPy, on the host."""

import numpy as np

from fmd_jax.models.config import ModelConfig


def mrope_positions(
  input_ids: np.ndarray,
  image_grid_thw: np.ndarray | None,
  lengths: np.ndarray,
  config: ModelConfig,
) -> tuple[np.ndarray, np.ndarray]:
  """The three positions of each token of right-padded rows.

  Text counts on alike in all three; an image starting at s has time s + frame, row
  s + i and column s + j over its merged grid, and the text after it starts at
  s + max(rows, columns).

  Args:
    input_ids: int [B, S], images expanded to their tokens.
    image_grid_thw: int [I, 3] of all images in row order, or None for text only.
    lengths: int [B] real tokens of each row.
    config: the model's, for its image id and merge size.

  Returns:
    positions int32 [3, B, S] (0 on padding) and next_position int32 [B], that of the
    first token after the row.

  Raises:
    ValueError: the image tokens of the rows do not match the grids.
  """
  input_ids, lengths = np.asarray(input_ids), np.asarray(lengths)
  grids = [] if image_grid_thw is None else np.asarray(image_grid_thw).tolist()
  merge, image = config.vision.spatial_merge_size, config.image_token_id
  positions = np.zeros((3, *input_ids.shape), np.int32)
  next_position = np.zeros(len(input_ids), np.int32)
  used = 0
  for b, (row, length) in enumerate(zip(input_ids, lengths)):
    starts = np.flatnonzero(row[:length] == image)
    at = position = 0
    while True:
      ahead = starts[starts >= at]
      end = int(ahead[0]) if len(ahead) else int(length)
      positions[:, b, at:end] = np.arange(position, position + end - at)
      position += end - at
      at = end
      if at >= length:
        break
      if used == len(grids):
        raise ValueError(f"row {b} has more images than the {len(grids)} grids given")
      frames, height, width = grids[used]
      shape = (frames, height // merge, width // merge)
      end = at + int(np.prod(shape))
      if end > length or (row[at:end] != image).any():
        raise ValueError(
          f"image {used}, grid {grids[used]}, needs {end - at} image tokens in row {b}"
        )
      positions[:, b, at:end] = np.indices(shape).reshape(3, -1) + position
      position += max(shape[1:])
      at, used = end, used + 1
    next_position[b] = positions[:, b, :length].max(initial=-1) + 1
  if used != len(grids):
    raise ValueError(f"{len(grids)} grids are given, the rows hold {used} images")
  return positions, next_position
