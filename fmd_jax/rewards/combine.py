"""Eq. 5, and from the rewards of its slots to that of a response."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

TERMS = ("semantic", "lexical", "penalty")
AGGREGATES = {"mean": np.mean, "sum": np.sum, "max": np.max}


def combine(
  valid: bool,
  correct: bool,
  deltas: Sequence[float],
  *,
  lambda_scale: float,
  lambda_penalty: float,
) -> float:
  """R = lambda_scale (d_emb + d_ifreq) V (1 - C) - lambda_penalty (1 - V), eq. 5.

  Args:
    valid: V.
    correct: C; ignored when the question is invalid.
    deltas: the diversity terms that are on. With none Delta = 1, and lambda_scale,
      which brings the sum of two terms into [0, 1], does not apply.
    lambda_scale: weight of the diversity terms.
    lambda_penalty: what an invalid question costs; 0 when the penalty is off.

  Returns:
    The reward of one question.
  """
  if not valid:
    return -lambda_penalty
  if correct:
    return 0.0
  return lambda_scale * sum(deltas) if deltas else 1.0


def response_rewards(
  reward: Float[np.ndarray, "N"],
  scored: Bool[np.ndarray, "N"],
  responses: Sequence[Sequence[int]],
  aggregate: str,
) -> tuple[Float[np.ndarray, "R"], Bool[np.ndarray, "R"]]:
  """R_response over the scored slots of each response (ours; the paper is silent).

  Args:
    reward: [N] reward of each slot.
    scored: [N] false where the slot has no reward.
    responses: the slots of each of the R responses.
    aggregate: "mean", "sum" or "max".

  Returns:
    [R] rewards (0 where nothing is scored) and [R] whether any slot is scored.
  """
  if aggregate not in AGGREGATES:
    raise ValueError(f"reward.aggregate {aggregate!r} is none of {list(AGGREGATES)}")
  out = np.zeros(len(responses))
  any_scored = np.zeros(len(responses), bool)
  for r, slots in enumerate(responses):
    values = [reward[i] for i in slots if scored[i]]
    if values:
      out[r], any_scored[r] = AGGREGATES[aggregate](values), True
  return out, any_scored
