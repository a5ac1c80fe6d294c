"""A frozen set of failures, asked of another model: fixed, still failing, newly so.

a run's failures -> suite (questions, images, fresh answers of the model; hashed)
-> another model's fresh answers, by the same judge -> what changed, by group
"""

from fmd_jax.replay.choosing import Chosen, choose
from fmd_jax.replay.comparison import Replay, compare
from fmd_jax.replay.fresh import Asking, ask
from fmd_jax.replay.suite import Suite, SuiteError, read_suite, write_suite

__all__ = [
  "Asking",
  "Chosen",
  "Replay",
  "Suite",
  "SuiteError",
  "ask",
  "choose",
  "compare",
  "read_suite",
  "write_suite",
]
