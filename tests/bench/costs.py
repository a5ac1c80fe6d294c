"""The arithmetic that an update and a decoding step need, counted by hand.

A matrix product of m x k and k x n is 2mkn operations; what is not a product is left
out. Only what is needed counts: an image and its prompt once for its G responses, half
of the prompt's square of scores, keys and values and one token of its last layer, no
layer a second time for want of memory.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
N patches · D width · V vocabulary.
"""

import math
from typing import NamedTuple

import numpy as np
from flax import nnx

from fmd_jax import models
from fmd_jax.models import config as model_config


class Shape(NamedTuple):
  """B, G, P, T and the patches of all images; `frozen_vision` of an update."""

  images: int
  group: int
  prompt: int
  tokens: int
  grids: np.ndarray
  frozen_vision: bool = True


def weights(model: nnx.Module) -> dict[str, int]:
  """Numbers in the matrices that tokens are multiplied with, by part.

  "vision" is per patch (its merger's matrices, one product for four patches, count a
  quarter), "layers" per token, "head" per scored token; "all" is every parameter.
  """
  found = dict.fromkeys(("vision", "layers", "head", "all"), 0.0)
  for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    size = math.prod(leaf.shape)
    found["all"] += size
    if path[-1] != "kernel":
      continue
    if path[0] == "visual":
      merged = path[1] in ("merger", "deepstack_merger_list")
      found["vision"] += size / (model.config.vision.merge_unit if merged else 1)
    elif path[0] == "language_model":
      found["layers"] += size
  text = model.config.text
  found["head"] = text.hidden_size * text.vocab_size
  return found


def _vision_scores(grids: np.ndarray, config: model_config.VisionConfig) -> float:
  """Pairs of patches that attend to each other, over all layers."""
  plan = models.vision_plan(grids, config)
  full = len(set(config.fullatt_block_indexes) & set(range(config.depth)))
  per_layer = [
    float((segments.mask.sum(1).astype(float) ** 2).sum())
    for segments in (plan.frames or plan.windows, plan.windows)
  ]
  if plan.frames is None:
    full = config.depth
  return full * per_layer[0] + (config.depth - full) * per_layer[1]


def forward(model: nnx.Module, shape: Shape) -> dict[str, float]:
  """Operations of one scoring pass, by part: vision, layers, attention, head."""
  config, size = model.config, weights(model)
  text, vision = config.text, config.vision
  rows = shape.images * shape.group
  # The last token of a response predicts nothing, and the first one is predicted by
  # the prompt's last.
  steps = shape.tokens - 1
  tokens = shape.images * shape.prompt + rows * steps
  patches = float(shape.grids.prod(-1).sum())
  pairs = shape.images * shape.prompt * (shape.prompt + 1) / 2
  pairs += rows * (steps * shape.prompt + steps * (steps + 1) / 2)
  width = text.num_attention_heads * text.head_dim
  # After a prompt's last layer only its last token is read.
  kv_width = text.num_key_value_heads * text.head_dim
  others = shape.images * (shape.prompt - 1)
  unread = size["layers"] / text.num_hidden_layers - 2 * text.hidden_size * kv_width
  unread_pairs = others * shape.prompt / 2
  # A pair is a product with a key and one with a value.
  return {
    "vision": 2 * patches * size["vision"]
    + 4 * vision.hidden_size * _vision_scores(shape.grids, vision),
    "layers": 2 * (tokens * size["layers"] - others * unread),
    "attention": 4 * width * (text.num_hidden_layers * pairs - unread_pairs),
    "head": 2 * size["head"] * (shape.images + rows * steps),
  }


def update_flops(model: nnx.Module, shape: Shape) -> float:
  """A reference pass, a pass of the policy and its gradient, twice a pass.

  A frozen tower runs once for both policies and has no gradient.
  """
  parts = forward(model, shape)
  vision = parts.pop("vision")
  passes = 1 if shape.frozen_vision else 4
  return 4 * sum(parts.values()) + passes * vision


def update_bytes(model: nnx.Module, shape: Shape) -> float:
  """Weights read by three passes, gradients written, AdamW's four in and three out.

  Activations are left out: they may stay in a cache.
  """
  numbers = weights(model)["all"]
  trained = sum(
    leaf.size
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    if path[0] != "visual" or not shape.frozen_vision
  )
  return 4.0 * (3 * numbers + 8 * trained)


def decode_limits(
  model: nnx.Module, shape: Shape, flops: float, bandwidth: float
) -> float:
  """Seconds that T - 1 decoding steps of all rows take at least.

  Each step is bound by the products of its rows or by what it must read: all layers
  and the head once, and the keys and values seen so far, the prompt's once an image.

  Args:
    model: for its sizes.
    shape: of the batch.
    flops: operations a second.
    bandwidth: bytes a second.
  """
  text, size = model.config.text, weights(model)
  rows = shape.images * shape.group
  matrices = size["layers"] + size["head"]
  kv = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
  width = text.num_attention_heads * text.head_dim
  total = 0.0
  for step in range(1, shape.tokens):
    pairs = rows * (shape.prompt + step)
    products = 2 * rows * matrices + 4 * width * text.num_hidden_layers * pairs
    read = 4 * (matrices + kv * (shape.images * shape.prompt + rows * step))
    total += max(products / flops, read / bandwidth)
  return total
