"""The GRPO objective, eq. 1 of the paper, as a loss to minimise."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def response_weights(
  response_mask: Bool[Array, "B G"], lengths: Int[Array, "B G"]
) -> Float[Array, "B G"]:
  """What one response weighs in the loss; the weights of a batch sum to 1.

  A response counts when it is scored and has at least one token. The group's mean
  is over the responses that count, the batch's over the images that have any.
  Computed once over the whole batch, cut along with it, and handed to
  `grpo_loss`, it makes the sum over microbatches equal to the whole batch's loss.

  Args:
    response_mask: [B, G] true where the response has a scored slot.
    lengths: [B, G] tokens of the response, the terminal EOS included.

  Returns:
    [B, G] non-negative weights, all 0 when nothing counts.
  """
  chex.assert_rank(response_mask, 2)
  chex.assert_equal_shape([response_mask, lengths])
  counts = jnp.asarray(response_mask, bool) & (jnp.asarray(lengths) > 0)
  in_group = counts.sum(-1, keepdims=True)
  images = (in_group > 0).sum()
  return counts / (jnp.maximum(in_group, 1) * jnp.maximum(images, 1))


def stale_weights(
  old_logprobs: Float[Array, "B G T"],
  sampler_logprobs: Float[Array, "B G T"],
  cap: float = 2.0,
) -> Float[Array, "B G T"]:
  """Truncated importance weights min(exp(old - sampler), cap) of a stale batch.

  Args:
    old_logprobs: [B, G, T] recomputed by the trainer just before the update.
    sampler_logprobs: [B, G, T] recorded by the policy that sampled.
    cap: the truncation.

  Returns:
    [B, G, T] weights without gradient.
  """
  chex.assert_rank(old_logprobs, 3)
  chex.assert_equal_shape([old_logprobs, sampler_logprobs])
  weights = jnp.minimum(jnp.exp(old_logprobs - sampler_logprobs), cap)
  return jax.lax.stop_gradient(weights)


def grpo_loss(
  logprobs: Float[Array, "B G T"],
  old_logprobs: Float[Array, "B G T"],
  ref_logprobs: Float[Array, "B G T"],
  advantages: Float[Array, "B G"] | Float[Array, "B G T"],
  lengths: Int[Array, "B G"],
  response_mask: Bool[Array, "B G"],
  *,
  clip: float,
  beta: float,
  weights: Float[Array, "B G"] | None = None,
  token_weights: Float[Array, "B G T"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """GRPO's clipped objective with the KL penalty inside, eq. 1, negated.

  r = exp(logprobs - old_logprobs): the paper prints the ratio upside down. KL is
  the k3 estimate exp(ref - new) - (ref - new) - 1 at each sampled token. Mean over
  a response's tokens, then over the group, then over the images.

  Args:
    logprobs: [B, G, T] of the policy under training; places at or after the
      response's length are ignored and get no gradient, whatever they hold.
    old_logprobs: [B, G, T] as recorded by the sampler (recomputed when stale).
    ref_logprobs: [B, G, T] of the frozen reference policy.
    advantages: [B, G], or [B, G, T] for credit per question.
    lengths: [B, G] tokens of each response, the terminal EOS included.
    response_mask: [B, G] false for a response without a scored slot: it leaves the
      policy term, the KL and the denominators.
    clip: epsilon of eq. 1.
    beta: weight of the KL.
    weights: [B, G] from `response_weights` over the whole batch when this call sees
      a microbatch; None computes them from this call's own mask.
    token_weights: [B, G, T] from `stale_weights`, weighing both terms; None is 1.

  Returns:
    The scalar loss, and the metrics `kl` and `clip_frac` (averaged as the loss is,
    so they add up over microbatches as well) and `ratio_max_dev`, the largest
    |r - 1| of a token that counts (the maximum over microbatches).
  """
  chex.assert_rank(logprobs, 3)
  chex.assert_equal_shape([logprobs, old_logprobs, ref_logprobs])
  chex.assert_rank(advantages, {2, 3})
  chex.assert_equal_shape([lengths, response_mask])
  chex.assert_equal_shape_prefix([logprobs, lengths, advantages], 2)
  if advantages.ndim == 2:
    advantages = advantages[..., None]
  else:
    chex.assert_equal_shape([logprobs, advantages])
  if weights is None:
    weights = response_weights(response_mask, lengths)
  chex.assert_equal_shape([weights, lengths])

  tokens = jnp.arange(logprobs.shape[-1]) < lengths[..., None]
  tokens = tokens & jnp.asarray(response_mask, bool)[..., None]
  # Before exp, not after: inf * 0 in the backward pass is NaN.
  log_ratio = jnp.where(tokens, logprobs - jax.lax.stop_gradient(old_logprobs), 0.0)
  log_ref = jnp.where(tokens, jax.lax.stop_gradient(ref_logprobs) - logprobs, 0.0)
  advantages = jax.lax.stop_gradient(jnp.where(tokens, advantages, 0.0))

  ratio = jnp.exp(log_ratio)
  unclipped = ratio * advantages
  clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantages
  kl = jnp.expm1(log_ref) - log_ref
  loss = beta * kl - jnp.minimum(unclipped, clipped)
  if token_weights is not None:
    chex.assert_equal_shape([logprobs, token_weights])
    loss = loss * jax.lax.stop_gradient(jnp.where(tokens, token_weights, 0.0))

  def average(values: Array) -> Array:
    values = jnp.where(tokens, values, 0.0).sum(-1) / jnp.maximum(lengths, 1)
    return (values * weights).sum()

  metrics = {
    "kl": average(kl),
    "clip_frac": average((clipped < unclipped).astype(logprobs.dtype)),
    "ratio_max_dev": jnp.max(jnp.abs(ratio - 1.0), where=tokens, initial=0.0),
  }
  return average(loss), jax.tree.map(jax.lax.stop_gradient, metrics)
