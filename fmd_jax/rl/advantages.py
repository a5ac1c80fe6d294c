"""Rewards to advantages: A_g of eq. 1, normalised within a group."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

EPSILON = 1e-6
SCALES = ("std", "none")


def _normalise(rewards: Array, mask: Array, std_floor: float, scale: str) -> Array:
  """Normalises the last axis over its masked-in entries; masked-out ones give 0."""
  if scale not in SCALES:
    raise ValueError(f"no scale {scale!r} of advantages; available: {SCALES}")
  # A masked reward may hold anything, also NaN: it must not reach a sum.
  rewards = jnp.where(mask, rewards, 0.0)
  count = mask.sum(-1, keepdims=True)
  mean = rewards.sum(-1, keepdims=True) / jnp.maximum(count, 1)
  centred = jnp.where(mask, rewards - mean, 0.0)
  denominator = 1.0
  if scale == "std":
    variance = (centred**2).sum(-1, keepdims=True) / jnp.maximum(count - 1, 1)
    denominator = jnp.maximum(jnp.sqrt(variance), std_floor) + EPSILON
  # Equality is asked of the rewards, not of the std: the rounding of the mean
  # divided by EPSILON would be an advantage of the order of 0.1.
  high = jnp.max(jnp.where(mask, rewards, -jnp.inf), -1, keepdims=True)
  low = jnp.min(jnp.where(mask, rewards, jnp.inf), -1, keepdims=True)
  informative = (count >= 2) & (high > low)
  return jnp.where(informative & mask, centred / denominator, 0.0)


def group_advantages(
  rewards: Float[Array, "B G"],
  mask: Bool[Array, "B G"],
  std_floor: float = 0.0,
  scale: str = "std",
) -> Float[Array, "B G"]:
  """A_g = (R_g - mean(R)) / (max(std(R), std_floor) + 1e-6), of eq. 1.

  Args:
    rewards: [B, G] response rewards; what stands at a masked-out place is ignored.
    mask: [B, G] true where the response has at least one scored slot. The others
      leave the mean and the std (ddof = 1).
    std_floor: a lower bound for the std. The paper has none (0): dividing by the
      group's own std erases the scale of the diversity terms.
    scale: "std", or "none": the rewards are centred only (Dr. GRPO).

  Returns:
    [B, G] advantages; 0 at masked-out places, and in a whole group when fewer than
    two of its responses are scored or all scored rewards are equal.
  """
  chex.assert_rank(rewards, 2)
  chex.assert_equal_shape([rewards, mask])
  return _normalise(jnp.asarray(rewards), jnp.asarray(mask, bool), std_floor, scale)


def question_advantages(
  rewards: Float[Array, "B G K"],
  scored: Bool[Array, "B G K"],
  token_slots: Int[Array, "B G T"],
  std_floor: float = 0.0,
  scale: str = "std",
) -> Float[Array, "B G T"]:
  """Credit per question (ours): every token gets its own question's advantage.

  Args:
    rewards: [B, G, K] slot rewards, normalised over all G * K scored slots.
    scored: [B, G, K] true where the slot has a reward.
    token_slots: [B, G, T] the slot whose question the token spells; -1 for tags
      and EOS, which take the mean over the response's scored slots.
    std_floor: as in `group_advantages`.
    scale: likewise.

  Returns:
    [B, G, T] advantages; 0 for the tokens of an unscored slot.
  """
  chex.assert_rank([rewards, token_slots], 3)
  chex.assert_equal_shape([rewards, scored])
  chex.assert_equal_shape_prefix([rewards, token_slots], 2)
  images, group, slots = rewards.shape
  scored = jnp.asarray(scored, bool)
  flat = (images, group * slots)
  advantages = _normalise(
    jnp.asarray(rewards).reshape(flat), scored.reshape(flat), std_floor, scale
  ).reshape(rewards.shape)
  count = jnp.maximum(scored.sum(-1, keepdims=True), 1)
  response_mean = advantages.sum(-1, keepdims=True) / count
  own = jnp.take_along_axis(advantages, jnp.clip(token_slots, 0, slots - 1), axis=-1)
  return jnp.where(token_slots < 0, response_mean, own)
