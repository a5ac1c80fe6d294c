"""Verdicts to rewards: eq. 5, its diversity terms and memory banks. NumPy only."""

from fmd_jax.rewards.banks import Banks
from fmd_jax.rewards.combine import combine, response_rewards
from fmd_jax.rewards.diversity import (
  lexical_paper,
  lexical_relative,
  prefix,
  semantic,
)
from fmd_jax.rewards.rows import Row, needs_embedding
from fmd_jax.rewards.score import StepRewards, score_step

__all__ = [
  "Banks",
  "Row",
  "StepRewards",
  "combine",
  "lexical_paper",
  "lexical_relative",
  "needs_embedding",
  "prefix",
  "response_rewards",
  "score_step",
  "semantic",
]
