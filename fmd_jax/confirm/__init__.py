"""Asks each failure again, in ways that a chance, a wording or a judge can't survive.

failures of an evaluation -> missed again -> in other words -> by a second judge
-> controls -> confirmed.parquet
"""

from fmd_jax.confirm.checks import Failure, Models, Settings, true_answers
from fmd_jax.confirm.failures import Found, choose
from fmd_jax.confirm.ladder import confirm, costs

__all__ = [
  "Failure",
  "Found",
  "Models",
  "Settings",
  "choose",
  "confirm",
  "costs",
  "true_answers",
]
