"""The losses: one core, `policy_loss`, and what tells the family's members apart."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Tokens(NamedTuple):
  """What an objective sees of a batch; 0 at every place that does not count.

  Attributes:
    logprobs: [B, G, T] of the policy under training.
    log_ratio: [B, G, T] logprobs - old_logprobs.
    advantages: [B, G, T], or [B, G, 1] where all tokens share one.
    lengths: [B, G].
  """

  logprobs: Float[Array, "B G T"]
  log_ratio: Float[Array, "B G T"]
  advantages: Float[Array, "B G #T"]
  lengths: Int[Array, "B G"]


Objective = tuple[Float[Array, "B G T"], Bool[Array, "B G T"]]


# ---- what a token gains, and whether a bound holds it ------------------------------


def clipped_ratio(tokens: Tokens, low: float, high: float) -> Objective:
  """min(r A, clip(r, 1 - low, 1 + high) A), eq. 1.

  r = exp(logprobs - old_logprobs): the paper prints the ratio upside down.
  """
  ratio = jnp.exp(tokens.log_ratio)
  unclipped = ratio * tokens.advantages
  clipped = jnp.clip(ratio, 1.0 - low, 1.0 + high) * tokens.advantages
  return jnp.minimum(unclipped, clipped), clipped < unclipped


def clipped_sequence_ratio(tokens: Tokens, low: float, high: float) -> Objective:
  """The same with GSPO's ratio: exp of the mean log-ratio of the whole response."""
  mean = tokens.log_ratio.sum(-1, keepdims=True)
  mean = mean / jnp.maximum(tokens.lengths, 1)[..., None]
  # The response's value at each of its tokens, each token's own gradient: summed over
  # the response it is the mean's, and advantages may differ from token to token.
  own = tokens.log_ratio - jax.lax.stop_gradient(tokens.log_ratio - mean)
  return clipped_ratio(tokens._replace(log_ratio=own), low, high)


def truncated_ratio(tokens: Tokens, low: float, high: float) -> Objective:
  """CISPO's min(r, high) A logprob: the ratio is a weight and has no gradient.

  A clipped token still learns. `high` bounds the ratio itself, `low` is not used.
  """
  del low
  ratio = jax.lax.stop_gradient(jnp.exp(tokens.log_ratio))
  weight = jnp.minimum(ratio, high) * tokens.advantages
  return weight * tokens.logprobs, ratio > high


def log_likelihood(tokens: Tokens, low: float, high: float) -> Objective:
  """A logprob: with advantages of 1 the supervised loss, whoever wrote the text."""
  del low, high
  return tokens.logprobs * tokens.advantages, jnp.zeros(tokens.logprobs.shape, bool)


# ---- what a response weighs --------------------------------------------------------


def response_weights(
  response_mask: Bool[Array, "B G"], lengths: Int[Array, "B G"]
) -> Float[Array, "B G"]:
  """What one response weighs in the loss; the weights of a batch sum to 1.

  A response counts when it is scored and has at least one token. The group's mean
  is over the responses that count, the batch's over the images that have any.
  Computed once over the whole batch, cut along with it, and handed to
  `policy_loss`, it makes the sum over microbatches equal to the whole batch's loss.

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


def response_mean(response_mask, lengths, advantages, max_length):
  """`response_weights`: every response weighs the same, a token of a long one less."""
  del advantages, max_length
  return response_weights(response_mask, lengths)


def constant_length(response_mask, lengths, advantages, max_length):
  """Dr. GRPO's: the sum over a response's tokens divided by the longest allowed."""
  del advantages
  return response_weights(response_mask, lengths) * lengths / max_length


def token_mean(response_mask, lengths, advantages, max_length):
  """Every token of the whole batch weighs the same."""
  del advantages, max_length
  tokens = jnp.where(response_mask, lengths, 0)
  return tokens / jnp.maximum(tokens.sum(), 1)


def informative_token_mean(response_mask, lengths, advantages, max_length):
  """DAPO's: that of the groups whose rewards differ; the others are left out."""
  # Only places that count may be looked at: elsewhere there may be NaN.
  if advantages.ndim == 2:
    moves = response_mask & (advantages != 0)
  else:
    within = jnp.arange(advantages.shape[-1]) < lengths[..., None]
    moves = response_mask & (within & (advantages != 0)).any(-1)
  informative = moves.any(-1, keepdims=True)
  return token_mean(response_mask & informative, lengths, advantages, max_length)


class Loss(NamedTuple):
  """A member of the family.

  Attributes:
    objective: (tokens, low, high) -> what each token gains, and where it is bounded.
    weights: (response_mask, lengths, advantages, max_length) -> [B, G] what each
      response's mean over tokens weighs; over the whole batch, see `response_weights`.
  """

  objective: Callable[[Tokens, float, float], Objective]
  weights: Callable[..., Float[Array, "B G"]]


LOSSES = {
  "grpo": Loss(clipped_ratio, response_mean),  # the paper
  # Liu et al. 2025; their advantages are not divided by the std either.
  "dr_grpo": Loss(clipped_ratio, constant_length),
  "dapo": Loss(clipped_ratio, informative_token_mean),  # Yu et al. 2025
  "gspo": Loss(clipped_sequence_ratio, response_mean),  # Zheng et al. 2025
  "cispo": Loss(truncated_ratio, token_mean),  # MiniMax-M1, 2025
}
# Of given texts: the cross-entropy of their tokens, which all weigh the same.
SUPERVISED = Loss(log_likelihood, token_mean)

# Estimates of KL(policy || reference) at a sampled token, of d = ref - new. The
# gradient of k1 is 0 in the mean: it is for the metric, not for a penalty.
KL = {
  "k1": lambda d: -d,
  "k2": lambda d: 0.5 * d**2,
  "k3": lambda d: jnp.expm1(d) - d,
}


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


def policy_loss(
  loss: Loss,
  logprobs: Float[Array, "B G T"],
  old_logprobs: Float[Array, "B G T"],
  ref_logprobs: Float[Array, "B G T"],
  advantages: Float[Array, "B G"] | Float[Array, "B G T"],
  lengths: Int[Array, "B G"],
  response_mask: Bool[Array, "B G"],
  *,
  weights: Float[Array, "B G"],
  clip: float,
  clip_high: float,
  beta: float,
  kl: str = "k3",
  token_weights: Float[Array, "B G T"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """-(objective - beta KL): mean over a response's tokens, then by `weights`.

  Args:
    loss: of `LOSSES`.
    logprobs: [B, G, T] of the policy under training; places at or after the
      response's length are ignored and get no gradient, whatever they hold.
    old_logprobs: [B, G, T] as recorded by the sampler (recomputed when stale).
    ref_logprobs: [B, G, T] of the frozen reference policy.
    advantages: [B, G], or [B, G, T] for credit per question.
    lengths: [B, G] tokens of each response, the terminal EOS included.
    response_mask: [B, G] false for a response without a scored slot: it leaves the
      policy term, the KL and the denominators.
    weights: [B, G] from `loss.weights` over the whole batch, of which this call may
      see a part.
    clip: epsilon, the ratio's bound below 1.
    clip_high: that above 1; of CISPO, the bound of the ratio itself.
    beta: weight of the KL.
    kl: estimate of the KL, of `KL`.
    token_weights: [B, G, T] from `stale_weights`, weighing both terms; None is 1.

  Returns:
    The scalar loss, and the metrics `kl` and `clip_frac` (averaged as the loss is,
    so they add up over microbatches as well) and `ratio_max_dev`, the largest
    |r - 1| of a token that counts (the maximum over microbatches).
  """
  chex.assert_rank(logprobs, 3)
  chex.assert_equal_shape([logprobs, old_logprobs, ref_logprobs])
  chex.assert_rank(advantages, {2, 3})
  chex.assert_equal_shape([lengths, response_mask, weights])
  chex.assert_equal_shape_prefix([logprobs, lengths, advantages], 2)
  if advantages.ndim == 2:
    advantages = advantages[..., None]
  else:
    chex.assert_equal_shape([logprobs, advantages])

  counts = jnp.arange(logprobs.shape[-1]) < lengths[..., None]
  counts = counts & jnp.asarray(response_mask, bool)[..., None]
  # Before exp, not after: inf * 0 in the backward pass is NaN.
  log_ratio = jnp.where(counts, logprobs - jax.lax.stop_gradient(old_logprobs), 0.0)
  log_ref = jnp.where(counts, jax.lax.stop_gradient(ref_logprobs) - logprobs, 0.0)
  advantages = jax.lax.stop_gradient(jnp.where(counts, advantages, 0.0))

  objective, bounded = loss.objective(
    Tokens(jnp.where(counts, logprobs, 0.0), log_ratio, advantages, lengths),
    clip,
    clip_high,
  )
  divergence = KL[kl](log_ref)
  value = beta * divergence - objective
  if token_weights is not None:
    chex.assert_equal_shape([logprobs, token_weights])
    value = value * jax.lax.stop_gradient(jnp.where(counts, token_weights, 0.0))

  def average(values: Array) -> Array:
    values = jnp.where(counts, values, 0.0).sum(-1) / jnp.maximum(lengths, 1)
    return (values * weights).sum()

  deviation = jnp.abs(jnp.exp(log_ratio) - 1.0)
  metrics = {
    "kl": average(divergence),
    "clip_frac": average(bounded.astype(logprobs.dtype)),
    "ratio_max_dev": jnp.max(deviation, where=counts, initial=0.0),
  }
  return average(value), jax.tree.map(jax.lax.stop_gradient, metrics)
