"""What an update is made from, and how it is cut into microbatches.

Axes: see `fmd_jax.update`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from fmd_jax.models.axes import Array
from fmd_jax.models.buckets import bucket
from fmd_jax.questioner.inputs import Prompt
from fmd_jax.sharding import BATCH, batch_shards, constrain

# The shortest that completions are cut to: below, a program more saves nothing.
SHORTEST = 16


class TrainBatch(NamedTuple):
  """Scored responses.

  Attributes:
    prompt: the B prompts as the sampler saw them.
    completions: [B, G, T].
    lengths: [B, G] tokens, the end token included.
    old_logprobs: [B, G, T] as the sampler recorded them.
    advantages: [B, G], or [B, G, T] for credit per question.
    response_mask: [B, G] false where no slot of the response was scored.
    image_features: [M, F] or [parts, M, F] from the sampler: with a frozen vision tower
      they are still right. None: encode `pixel_values` here.
    pixel_values: [N, patch], [parts, N, patch] or None.
    plan: `models.vision_plan` of the same images, or None.
    token_weights: [B, G, T] from `losses.stale_weights`, or None for a fresh batch.
  """

  prompt: Prompt
  completions: Int[Array, "B G T"]
  lengths: Int[Array, "B G"]
  old_logprobs: Float[Array, "B G T"]
  advantages: Float[Array, "B G"] | Float[Array, "B G T"]
  response_mask: Bool[Array, "B G"]
  image_features: Float[Array, "M F"] | Float[Array, "parts M F"] | None = None
  pixel_values: Float[Array, "N patch"] | Float[Array, "parts N patch"] | None = None
  plan: Any = None
  token_weights: Float[Array, "B G T"] | None = None


def trim(batch: TrainBatch) -> TrainBatch:
  """Cuts what no response of the batch reaches off the T axis, on the host.

  T becomes a bucket, two to an octave, so that few programs are compiled; loss and
  gradient stay what they are.
  """
  whole = batch.completions.shape[-1]
  length = min(bucket(int(batch.lengths.max()), 2, SHORTEST), whole)
  per_token = {
    name: value[..., :length]
    for name in ("completions", "old_logprobs", "advantages", "token_weights")
    if (value := getattr(batch, name)) is not None and value.ndim == 3
  }
  return batch._replace(**per_token)


def microbatch_number(batch: TrainBatch, tokens: int) -> int:
  """The smallest number of equal microbatches of at most so many tokens each.

  An image costs its prompt and its responses, P + G * T, padding included: that is
  what is computed. All are shapes, so that inside a jitted function the number is
  known when it is traced.

  Args:
    batch: see `TrainBatch`.
    tokens: the budget of all devices together. A microbatch has an image for each
      part of the batch axis at least, also where these are more tokens.
  """
  images, group, length = batch.completions.shape
  each = batch.prompt.input_ids.shape[1] + group * length
  shards = batch_shards()
  # A batch that does not split over the devices is whole on each of them.
  per_shard = images // shards if images % shards == 0 else images
  numbers = [n for n in range(1, per_shard + 1) if per_shard % n == 0]
  fitting = [n for n in numbers if images // n * each <= tokens]
  return (fitting or numbers[-1:])[0]


class Group(NamedTuple):
  """What the scan over microbatches walks along; the leading axis is the group."""

  prompt_ids: Array
  prompt_lengths: Array
  positions: Array  # [B, 3, P]
  next_position: Array
  first_feature: Array  # [B] where an image's features start in those of its part
  completions: Array
  lengths: Array
  old_logprobs: Array
  advantages: Array
  response_mask: Array
  weights: Array
  token_weights: Array | None


def groups(
  batch: TrainBatch,
  number: int,
  parts: int,
  image_token_id: int,
  weigh: Callable[..., Float[Array, "B G"]],
) -> Group:
  """Cuts a batch into `number` groups of images, stacked on a new first axis.

  A batch in parts, each on devices of its own, gives every group a share of each: cut
  in order, a group would be on some of the devices and the rest would wait.

  Args:
    batch: see `TrainBatch`.
    number: of groups.
    parts: of the batch's features.
    image_token_id: the model's.
    weigh: `losses.Loss.weights`, all but its last argument.
  """
  images = batch.completions.shape[0]
  if images % (number * parts):
    more = f" on each of {parts} parts of the devices" if parts > 1 else ""
    raise ValueError(f"{images} images do not split into {number} microbatches{more}")
  # How many features an image has depends on its size: the groups are cut from the
  # whole by where they start.
  counts = (batch.prompt.input_ids == image_token_id).sum(-1).reshape(parts, -1)
  group = Group(
    prompt_ids=batch.prompt.input_ids,
    prompt_lengths=batch.prompt.lengths,
    positions=jnp.moveaxis(batch.prompt.positions, 0, 1),
    next_position=batch.prompt.next_position,
    first_feature=(jnp.cumsum(counts, -1) - counts).ravel(),
    completions=batch.completions,
    lengths=batch.lengths,
    old_logprobs=batch.old_logprobs,
    advantages=batch.advantages,
    response_mask=batch.response_mask,
    # Over the whole batch: the groups' losses then add up to the batch's.
    weights=weigh(batch.response_mask, batch.lengths, batch.advantages),
    token_weights=batch.token_weights,
  )

  def cut(x: Array) -> Array:
    x = x.reshape(parts, number, -1, *x.shape[1:])
    return constrain(
      jnp.swapaxes(x, 0, 1).reshape(number, -1, *x.shape[3:]), None, BATCH, "..."
    )

  return jax.tree.map(cut, group)
