"""Whether a run's programs fit a TPU's memory: compiled for it, on any machine.

The functions are those that run; their arguments are shapes, so that no weight and no
TPU is needed. What it gives is a compiler's account of memory and messages, never a
speed.
"""

from fmd_jax.fit.account import (
  GIB,
  HBM,
  TOPOLOGIES,
  Program,
  collectives,
  compile_program,
  largest,
  table,
  topology,
)
from fmd_jax.fit.programs import Workload, inputs, programs

__all__ = [
  "GIB",
  "HBM",
  "TOPOLOGIES",
  "Program",
  "Workload",
  "collectives",
  "compile_program",
  "inputs",
  "largest",
  "programs",
  "table",
  "topology",
]
