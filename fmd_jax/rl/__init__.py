"""GRPO's mathematics: pure jnp, no model, no config object.

Axis legend: B images, G responses per image, K questions per response,
T completion tokens.
"""

from fmd_jax.rl.advantages import SCALES, group_advantages, question_advantages
from fmd_jax.rl.losses import (
  KL,
  LOSSES,
  SUPERVISED,
  policy_loss,
  response_weights,
  stale_weights,
)

__all__ = [
  "KL",
  "LOSSES",
  "SCALES",
  "SUPERVISED",
  "group_advantages",
  "policy_loss",
  "question_advantages",
  "response_weights",
  "stale_weights",
]
