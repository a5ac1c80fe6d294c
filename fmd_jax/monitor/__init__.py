"""Whether a training learns to please its verifier: another judge looks at a few rows.

rows of a step -> a few, drawn at random -> evaluator -> gaps with intervals -> alarms
"""

from fmd_jax.monitor.sequential import gap_interval
from fmd_jax.monitor.watch import ALARMS, Key, Options, Watch

__all__ = ["ALARMS", "Key", "Options", "Watch", "gap_interval"]
