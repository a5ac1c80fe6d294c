"""What the model is shown: prompts with their positions, patches and their plan.

Axes: B images · P prompt tokens · N patches of all images.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fmd_jax import models, sharding
from fmd_jax.models.axes import Array
from fmd_jax.models.buckets import bucket


class Prompt(NamedTuple):
  """B prompts, right-padded.

  Attributes:
    input_ids: [B, P].
    lengths: [B] real tokens.
    positions: [3, B, P] M-RoPE positions.
    next_position: [B] the position of the first completion token.
  """

  input_ids: Int[Array, "B P"]
  lengths: Int[Array, " B"]
  positions: Int[Array, "3 B P"]
  next_position: Int[Array, " B"]


class Inputs(NamedTuple):
  """What the model sees of B images: the prompts and the pictures.

  Attributes:
    prompt: the B prompts.
    pixel_values: [N, patch], the patches of all images and rows of zeros after them;
      [parts, N, patch] on several devices, each with its own images.
    plan: `models.vision_plan` of the same images.
  """

  prompt: Prompt
  pixel_values: Float[Array, "N patch"] | Float[Array, "parts N patch"]
  plan: models.VisionPlan


def make_prompt(
  input_ids: np.ndarray, lengths: np.ndarray, image_grid_thw: np.ndarray, config: Any
) -> Prompt:
  """Adds M-RoPE positions to right-padded token ids; NumPy, on the host.

  Args:
    input_ids: [B, P].
    lengths: [B].
    image_grid_thw: [I, 3] of all images, in row order.
    config: the model's.
  """
  positions, next_position = models.mrope_positions(
    input_ids, image_grid_thw, lengths, config
  )
  return Prompt(input_ids, lengths, positions, next_position)


def make_inputs(
  input_ids: np.ndarray,
  lengths: np.ndarray,
  pixel_values: np.ndarray,
  image_grid_thw: np.ndarray,
  config: Any,
  parts: int | None = None,
) -> Inputs:
  """Puts together what the model sees; NumPy, on the host.

  Unequal images are padded, in patches and in prompt: batches of photographs then
  share a few compiled programs. Equal ones keep their exact shapes.

  Args:
    input_ids: [B, P], right-padded.
    lengths: [B].
    pixel_values: [N, patch] of all images, in row order.
    image_grid_thw: [I, 3].
    config: the model's.
    parts: how many devices of this process each take a part of the rows and encode the
      part's images: patches and plan then have a leading axis of parts, and their
      shapes are those of all processes. None: all are encoded together.
  """
  visual = (input_ids == config.image_token_id).sum(1)
  if parts is None:
    plan = models.vision_plan(image_grid_thw, config.vision, bucketed=True)
    pixel_values = models.pad_patches(pixel_values, plan)
  else:
    tokens = image_grid_thw.prod(-1) // config.vision.merge_unit
    ends = np.cumsum(visual.reshape(parts, -1).sum(1))[:-1]
    first = np.searchsorted(np.cumsum(tokens), ends, "right")
    grids = np.split(image_grid_thw, first)
    plan = models.vision_plans(grids, config.vision, sharding.agree)
    pixel_values = models.pad_patches(pixel_values, plan, grids)
  width = input_ids.shape[1]
  if (image_grid_thw != image_grid_thw[0]).any():
    # Rounded apart: with one image a row, the second part is the plan's longest
    # frame, so that there are no more programs than plans.
    width = bucket(int((lengths - visual).max()), 8, 8) + bucket(int(visual.max()), 2)
  width = width if parts is None else int(sharding.agree(np.array(width)))
  if width != input_ids.shape[1]:
    padded = np.full((len(input_ids), width), config.pad_token_id, np.int32)
    kept = min(width, input_ids.shape[1])
    padded[:, :kept] = input_ids[:, :kept]
    input_ids = padded
  prompt = make_prompt(input_ids, lengths, image_grid_thw, config)
  return Inputs(prompt, pixel_values, plan)
