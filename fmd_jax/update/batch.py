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
from fmd_jax.models.permute import permute
from fmd_jax.questioner.sampler import Prompt

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
    image_features: [M, F] from the sampler: with a frozen vision tower they are still
      right. None: encode `pixel_values` here.
    pixel_values: [N, patch] or None.
    plan: `models.vision_plan` of the same images, or None.
    token_weights: [B, G, T] from `losses.stale_weights`, or None for a fresh batch.
  """

  prompt: Prompt
  completions: Int[Array, "B G T"]
  lengths: Int[Array, "B G"]
  old_logprobs: Float[Array, "B G T"]
  advantages: Float[Array, "B G"] | Float[Array, "B G T"]
  response_mask: Bool[Array, "B G"]
  image_features: Float[Array, "M F"] | None = None
  pixel_values: Float[Array, "N patch"] | None = None
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


def microbatch_number(batch: TrainBatch, tokens: int, shards: int = 1) -> int:
  """The smallest number of equal microbatches of at most so many tokens each.

  An image costs its prompt and its responses, P + G * T, padding included: that is
  what is computed. All are shapes, so that inside a jitted function the number is
  known when it is traced.

  Args:
    batch: see `TrainBatch`.
    tokens: the budget; 0: no limit. A microbatch has an image for each shard at least,
      also where these are more tokens.
    shards: devices that the B axis is split over; each gets as many images.
  """
  images, group, length = batch.completions.shape
  each = batch.prompt.input_ids.shape[1] + group * length
  numbers = [
    n for n in range(1, images + 1) if images % n == 0 and images // n % shards == 0
  ]
  if not numbers:
    raise ValueError(f"{images} images do not split over {shards} devices")
  fitting = [n for n in numbers if not tokens or images // n * each <= tokens]
  return (fitting or numbers[-1:])[0]


class Group(NamedTuple):
  """What the scan over microbatches walks along; the leading axis is the group."""

  prompt_ids: Array
  prompt_lengths: Array
  positions: Array  # [B, 3, P]
  next_position: Array
  first_feature: Array  # [B] where an image's features start
  completions: Array
  lengths: Array
  old_logprobs: Array
  advantages: Array
  response_mask: Array
  weights: Array
  token_weights: Array | None


def cut(
  batch: TrainBatch,
  number: int,
  image_token_id: int,
  weigh: Callable[..., Float[Array, "B G"]],
) -> tuple[Group, Callable[[Float[Array, "M F"]], Float[Array, "M F"]]]:
  """Cuts a batch into `number` groups of images.

  Group i has the images i, i + number, i + 2 number, ...: where the B axis is split
  over devices, in contiguous blocks, each group has a share of every device's images.
  Contiguous groups would leave all devices but a few without work.

  Args:
    batch: see `TrainBatch`.
    number: of groups.
    image_token_id: the model's.
    weigh: `losses.Loss.weights`, all but its last argument.

  Returns:
    The groups, and a function that brings the images' features into their order.
  """
  images = batch.completions.shape[0]
  if images % number:
    raise ValueError(f"{images} images do not split into {number} microbatches")

  def regroup(x):
    x = jnp.reshape(x, (images // number, number, *x.shape[1:]))
    return jnp.swapaxes(x, 0, 1)

  # How many features an image has depends on its size: the groups are cut from the
  # whole by where they start.
  counts = (batch.prompt.input_ids == image_token_id).sum(-1)
  source = regroup(jnp.cumsum(counts) - counts)
  counts = regroup(counts)
  ends = jnp.cumsum(counts.ravel())
  first = ends.reshape(counts.shape) - counts

  def arrange(features):
    if number == 1:
      return features
    place = jnp.arange(len(features))
    image = jnp.minimum(jnp.searchsorted(ends, place, side="right"), images - 1)
    moved = place + (source - first).ravel()[image]
    # Features of no image, padding, stay where they are: behind all others.
    order = jnp.where(place < ends[-1], moved, place)
    return permute(features, order, jnp.argsort(order))

  group = Group(
    prompt_ids=batch.prompt.input_ids,
    prompt_lengths=batch.prompt.lengths,
    positions=jnp.moveaxis(batch.prompt.positions, 0, 1),
    next_position=batch.prompt.next_position,
    first_feature=first,
    completions=batch.completions,
    lengths=batch.lengths,
    old_logprobs=batch.old_logprobs,
    advantages=batch.advantages,
    response_mask=batch.response_mask,
    # Over the whole batch: the groups' losses then add up to the batch's.
    weights=weigh(batch.response_mask, batch.lengths, batch.advantages),
    token_weights=batch.token_weights,
  )
  cut_up = jax.tree.map(regroup, group._replace(first_feature=None))
  return cut_up._replace(first_feature=first), arrange
