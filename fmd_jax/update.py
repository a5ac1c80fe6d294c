"""One GRPO update: scores, loss, gradient and optimiser in one jitted program.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
D width · F width of a visual token · V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Bool, Float, Int

from fmd_jax.models import scoring
from fmd_jax.models.axes import Array, constrain_params
from fmd_jax.models.buckets import bucket
from fmd_jax.questioner.sampler import Prompt
from fmd_jax.rl import losses
from fmd_jax.sharding import BATCH, constrain

VISION = "visual"
# The shortest that completions are cut to: below, a program more saves nothing.
SHORTEST = 16


class TrainState(NamedTuple):
  """What an update changes, and what it needs unchanged beside it.

  Attributes:
    step: updates so far.
    params: the trained part of the model's state.
    frozen: the rest of it.
    ref_params: the reference policy's values of what is trained; it shares `frozen`.
    opt_state: the optimiser's.
  """

  step: Array
  params: nnx.State
  frozen: nnx.State
  ref_params: nnx.State
  opt_state: optax.OptState


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


class _Group(NamedTuple):
  """What the scan over image groups walks along; the leading axis is the group."""

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


def init_state(
  model: nnx.Module, optimizer: optax.GradientTransformation, freeze: Sequence[str] = ()
) -> TrainState:
  """The state before the first update; the model is its own reference policy.

  Args:
    model: its arrays are copied: the update may donate ours.
    optimizer: see `optim.make_optimizer`.
    freeze: dotted name prefixes that are not trained, "visual" for one.

  Raises:
    ValueError: a prefix names nothing.
  """

  def name(path: tuple) -> str:
    return ".".join(map(str, path))

  def is_under(path: tuple, prefix: str) -> bool:
    return f"{name(path)}.".startswith(f"{prefix}.")

  paths = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
  for prefix in freeze:
    if not any(is_under(path, prefix) for path in paths):
      known = ", ".join(sorted({name(path[:1]) for path in paths}))
      raise ValueError(f"freeze: no parameter is under {prefix!r}; there are {known}")
  _, frozen, params = nnx.split(
    model, lambda path, _: any(is_under(path, p) for p in freeze), ...
  )

  # One program, not one for each shape of array; the two copies are two buffers.
  @jax.jit
  def start(params, frozen):
    copy = functools.partial(jax.tree.map, jnp.copy)
    made = copy(params), copy(frozen), copy(params), optimizer.init(params)
    return constrain_params(made, model.config)

  return TrainState(jnp.zeros((), jnp.int32), *start(params, frozen))


def _groups(batch: TrainBatch, image_token_id: int, number: int, parts: int) -> _Group:
  """Cuts a batch into `number` groups of images, stacked on a new first axis.

  A batch in parts, each on devices of its own, gives every group a share of each: cut
  in order, a group would be on some of the devices and the rest would wait.
  """
  images = batch.completions.shape[0]
  if images % (number * parts):
    more = f" on each of {parts} parts of the devices" if parts > 1 else ""
    raise ValueError(f"{images} images do not split into {number} microbatches{more}")
  # How many features an image has depends on its size: the groups are cut from the
  # whole by where they start.
  counts = (batch.prompt.input_ids == image_token_id).sum(-1).reshape(parts, -1)
  group = _Group(
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
    weights=losses.response_weights(batch.response_mask, batch.lengths),
    token_weights=batch.token_weights,
  )

  def cut(x: Array) -> Array:
    x = x.reshape(parts, number, -1, *x.shape[1:])
    return constrain(
      jnp.swapaxes(x, 0, 1).reshape(number, -1, *x.shape[3:]), None, BATCH, "..."
    )

  return jax.tree.map(cut, group)


def _features(model: nnx.Module, batch: TrainBatch) -> Float[Array, "M F"]:
  if batch.image_features is not None:
    return batch.image_features
  if batch.pixel_values is None:
    raise ValueError("a TrainBatch needs image_features or pixel_values with a plan")
  return model.encode_images(batch.pixel_values, batch.plan)


def make_update_fn(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  *,
  beta: float,
  clip: float,
  microbatches: int,
  temperature: float,
  allowed_tokens: np.ndarray,
  image_token_id: int,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, dict[str, Array]]]:
  """Makes the jitted update; it donates the state it is given.

  Args:
    graphdef: from `nnx.split(model)`.
    optimizer: see `optim.make_optimizer`.
    beta: weight of the KL to the reference policy.
    clip: epsilon of eq. 1.
    microbatches: groups of images whose gradients are summed: the result is that of
      the whole batch, the memory that of one group.
    temperature: the sampler's.
    allowed_tokens: bool [V], the sampler's.
    image_token_id: the model's.

  Returns:
    f(state, batch) -> (state, metrics): `grpo/` loss, kl, clip_frac, entropy (nats a
    token), ratio_max_dev and grad_norm before the clip. A batch in which no response
    counts changes nothing but `step`.
  """
  allowed_tokens = np.asarray(allowed_tokens, bool)

  def score(params, frozen, features, group: _Group) -> tuple[Array, Array]:
    parts = features.shape[:-2]
    first = group.first_feature.reshape(*parts, -1)[..., 0]
    roll = lambda x, first: jnp.roll(x, -first, axis=0)  # noqa: E731
    return scoring.completion_logprobs(
      nnx.merge(graphdef, params, frozen),
      (jax.vmap(roll) if parts else roll)(features, first),
      group.prompt_ids,
      group.prompt_lengths,
      jnp.moveaxis(group.positions, 1, 0),
      group.next_position,
      group.completions,
      group.lengths,
      allowed_tokens,
      temperature=temperature,
    )

  def group_loss(params, features, frozen, group, ref_logprobs):
    logprobs, entropy = score(params, frozen, features, group)
    loss, metrics = losses.grpo_loss(
      logprobs,
      group.old_logprobs,
      ref_logprobs,
      group.advantages,
      group.lengths,
      group.response_mask,
      clip=clip,
      beta=beta,
      weights=group.weights,
      token_weights=group.token_weights,
    )
    # The scorer leaves 0 after a response's end.
    entropy = jax.lax.stop_gradient(entropy).sum(-1) / jnp.maximum(group.lengths, 1)
    metrics["entropy"] = (entropy * group.weights).sum()
    return loss, {**metrics, "loss": loss}

  def update(state: TrainState, batch: TrainBatch):
    config = nnx.merge(graphdef, state.params, state.frozen).config
    trained = {path[0] for path, _ in nnx.to_flat_state(state.params)}
    encode = lambda params: _features(  # noqa: E731
      nnx.merge(graphdef, params, state.frozen), batch
    )
    if VISION in trained:
      if batch.image_features is not None:
        raise ValueError("image_features are stale where the vision tower is trained")
      features, pull_back = jax.vjp(encode, state.params)
      ref_features = encode(state.ref_params)
    else:
      features = ref_features = encode(state.params)
      pull_back = None

    def one_group(total, group):
      gradients, sums, deviation = total
      ref_logprobs, _ = score(state.ref_params, state.frozen, ref_features, group)
      wanted = (0, 1) if pull_back else (0,)
      (_, metrics), new = jax.value_and_grad(group_loss, wanted, has_aux=True)(
        state.params, features, state.frozen, group, ref_logprobs
      )
      deviation = jnp.maximum(deviation, metrics.pop("ratio_max_dev"))
      new = (constrain_params(new[0], config), *new[1:])
      gradients, sums = jax.tree.map(jnp.add, (gradients, sums), (new, metrics))
      return (gradients, sums, deviation), None

    zeros = jax.tree.map(jnp.zeros_like, (state.params, features))
    zeros = (constrain_params(zeros[0], config), zeros[1])
    total = (
      zeros if pull_back else zeros[:1],
      dict.fromkeys(("kl", "clip_frac", "entropy", "loss"), jnp.zeros(())),
      jnp.zeros(()),
    )
    parts = features.shape[0] if features.ndim == 3 else 1
    groups = _groups(batch, image_token_id, microbatches, parts)
    (gradients, metrics, deviation), _ = jax.lax.scan(one_group, total, groups)
    if pull_back:
      (through_vision,) = pull_back(gradients[1])
      gradients = jax.tree.map(jnp.add, gradients[0], through_vision)
    else:
      (gradients,) = gradients

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Momentum would move the parameters on an empty batch as well.
    counts = groups.weights.sum() > 0
    params, opt_state = constrain_params(
      jax.tree.map(
        lambda new, old: jnp.where(counts, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
      ),
      config,
    )
    metrics |= {
      "ratio_max_dev": deviation,
      "grad_norm": optax.global_norm(gradients),
    }
    state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, {f"grpo/{name}": value for name, value in metrics.items()}

  return jax.jit(update, donate_argnums=0)
