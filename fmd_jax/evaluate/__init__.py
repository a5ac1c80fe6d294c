"""After the run: an independent judge reads the records, and numbers are made of it.

records -> plan (which rows, what it costs) -> verdicts, part by part
-> evaluations/*.parquet -> metrics.json
"""

from fmd_jax.evaluate.census import shipped_census
from fmd_jax.evaluate.judged import Remembering, evaluate
from fmd_jax.evaluate.measured import (
  CALIBRATION,
  embed_distinct,
  measure,
  read_evaluations,
  with_skills,
)
from fmd_jax.evaluate.plan import (
  Cost,
  Plan,
  allocate,
  draw,
  estimate,
  make_plan,
)

__all__ = [
  "CALIBRATION",
  "Cost",
  "Plan",
  "Remembering",
  "allocate",
  "draw",
  "embed_distinct",
  "estimate",
  "evaluate",
  "make_plan",
  "measure",
  "read_evaluations",
  "shipped_census",
  "with_skills",
]
