"""Image to reward: the arrow chain of one step, and the only place where the strings
of models become arrays.

    responses -> questions -> answers -> verdicts -> rewards -> advantages
"""

from fmd_jax.rollout.judges import Judged, Judges, Limits, Roles, join
from fmd_jax.rollout.rows import records
from fmd_jax.rollout.scoring import (
  RewardOptions,
  Rollout,
  judge_responses,
  measurements,
  score,
)

__all__ = [
  "Judged",
  "Judges",
  "Limits",
  "RewardOptions",
  "Roles",
  "Rollout",
  "join",
  "judge_responses",
  "measurements",
  "records",
  "score",
]
