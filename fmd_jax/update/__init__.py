"""One GRPO update: scores, loss, gradient and optimiser in one jitted program.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
M visual tokens · D width · F width of a visual token · V vocabulary.
"""

from fmd_jax.update.batch import TrainBatch, microbatch_number, trim
from fmd_jax.update.rescore import make_rescore_fn
from fmd_jax.update.state import (
  TrainState,
  cast,
  init_state,
  policy_params,
  trains_vision,
)
from fmd_jax.update.step import make_update_fn

__all__ = [
  "TrainBatch",
  "TrainState",
  "cast",
  "init_state",
  "make_rescore_fn",
  "make_update_fn",
  "microbatch_number",
  "policy_params",
  "trains_vision",
  "trim",
]
