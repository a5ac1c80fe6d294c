"""The jitted update.

Axes: see `fmd_jax.update`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Float

from fmd_jax.models import scoring
from fmd_jax.models.axes import Array, constrain_params
from fmd_jax.rl import losses
from fmd_jax.update.batch import Group, TrainBatch, groups, microbatch_number
from fmd_jax.update.state import TrainState, cast, trains_vision


def _features(
  model: nnx.Module, batch: TrainBatch, remat: bool | str
) -> Float[Array, "M F"] | Float[Array, "parts M F"]:
  if batch.image_features is not None:
    return batch.image_features
  if batch.pixel_values is None:
    raise ValueError("a TrainBatch needs image_features or pixel_values with a plan")
  return model.encode_images(batch.pixel_values, batch.plan, remat=remat)


def make_update_fn(
  graphdef: nnx.GraphDef,
  optimizer: optax.GradientTransformation,
  *,
  beta: float,
  clip: float,
  temperature: float,
  allowed_tokens: np.ndarray,
  image_token_id: int,
  loss: str | losses.Loss = "grpo",
  kl: str = "k3",
  clip_high: float | None = None,
  max_length: int | None = None,
  microbatches: int = 1,
  microbatch_tokens: int = 0,
  compute_dtype: Any = jnp.float32,
  remat: bool | str = True,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, dict[str, Array]]]:
  """Makes the jitted update; it donates the state it is given.

  Args:
    graphdef: from `nnx.split(model)`.
    optimizer: see `optim.make_optimizer`.
    beta: weight of the KL to the reference policy.
    clip: epsilon of eq. 1.
    temperature: the sampler's.
    allowed_tokens: bool [V], the sampler's.
    image_token_id: the model's.
    loss: of `losses.LOSSES`, by its name, or `losses.SUPERVISED`.
    kl: of `losses.KL`.
    clip_high: see `losses.policy_loss`; None: as `clip`.
    max_length: the longest response allowed; Dr. GRPO divides by it.
    microbatches: groups of images whose gradients are summed: the result is that of
      the whole batch, the memory that of one group.
    microbatch_tokens: as many groups as `batch.microbatch_number` says instead.
    compute_dtype: of activations and products; norms, rotations, softmax, log-probs,
      gradients and the optimiser stay in fp32, and the parameters in `state` are the
      masters that are cast.
    remat: see `QwenVL.language`.

  Returns:
    f(state, batch) -> (state, metrics): `grpo/` loss, kl, clip_frac, entropy (nats a
    token), ratio_max_dev and grad_norm before the clip. A batch in which no response
    counts changes nothing but `step`.
  """
  allowed_tokens = np.asarray(allowed_tokens, bool)
  member = losses.LOSSES[loss] if isinstance(loss, str) else loss
  if member.weights is losses.constant_length and not max_length:
    raise ValueError(f"{loss} needs max_length, the longest response allowed")

  def merge(params, frozen):
    # Inside what is differentiated: gradients are those of the masters.
    return nnx.merge(graphdef, cast(params, compute_dtype), cast(frozen, compute_dtype))

  def score(params, frozen, features, group: Group) -> tuple[Array, Array]:
    parts = features.shape[:-2]
    first = group.first_feature.reshape(*parts, -1)[..., 0]
    roll = lambda x, first: jnp.roll(x, -first, axis=0)  # noqa: E731
    return scoring.completion_logprobs(
      merge(params, frozen),
      (jax.vmap(roll) if parts else roll)(features, first),
      group.prompt_ids,
      group.prompt_lengths,
      jnp.moveaxis(group.positions, 1, 0),
      group.next_position,
      group.completions,
      group.lengths,
      allowed_tokens,
      temperature=temperature,
      remat=remat,
    )

  def group_loss(params, features, frozen, group, ref_logprobs):
    logprobs, entropy = score(params, frozen, features, group)
    value, metrics = losses.policy_loss(
      member,
      logprobs,
      group.old_logprobs,
      ref_logprobs,
      group.advantages,
      group.lengths,
      group.response_mask,
      weights=group.weights,
      clip=clip,
      clip_high=clip if clip_high is None else clip_high,
      beta=beta,
      kl=kl,
      token_weights=group.token_weights,
    )
    # The scorer leaves 0 after a response's end.
    entropy = jax.lax.stop_gradient(entropy).sum(-1) / jnp.maximum(group.lengths, 1)
    metrics["entropy"] = (entropy * group.weights).sum()
    return value, {**metrics, "loss": value}

  def update(state: TrainState, batch: TrainBatch):
    config = nnx.merge(graphdef, state.params, state.frozen).config
    number = microbatches
    if microbatch_tokens:
      number = microbatch_number(batch, microbatch_tokens)
    encode = lambda params: _features(  # noqa: E731
      merge(params, state.frozen), batch, remat
    )
    if trains_vision(state):
      if batch.image_features is not None:
        raise ValueError("image_features are stale where the vision tower is trained")
      features, pull_back = jax.vjp(encode, state.params)
      ref_features = encode(state.ref_params)
    else:
      features = ref_features = encode(state.params)
      pull_back = None
    weigh = functools.partial(member.weights, max_length=max_length)
    parts = features.shape[0] if features.ndim == 3 else 1
    cut = groups(batch, number, parts, image_token_id, weigh)

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
    (gradients, metrics, deviation), _ = jax.lax.scan(one_group, total, cut)
    if pull_back:
      (through_vision,) = pull_back(gradients[1])
      gradients = jax.tree.map(jnp.add, gradients[0], through_vision)
    else:
      (gradients,) = gradients

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Momentum would move the parameters on an empty batch as well.
    weight = cut.weights.sum()
    counts = weight > 0
    params, opt_state = constrain_params(
      jax.tree.map(
        lambda new, old: jnp.where(counts, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
      ),
      config,
    )
    for name in ("kl", "clip_frac", "entropy"):
      # Means, also where the loss divides by something else than what it sums.
      metrics[name] /= jnp.where(counts, weight, 1)
    metrics |= {
      "ratio_max_dev": deviation,
      "grad_norm": optax.global_norm(gradients),
    }
    state = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
    return state, {f"grpo/{name}": value for name, value in metrics.items()}

  return jax.jit(update, donate_argnums=0)
