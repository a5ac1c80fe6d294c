"""Whether findings can be trusted: people's labels against the judges' verdicts."""

from fmd_jax.trust.agreement import (
  accuracy_by_margin,
  cohen_kappa,
  gwet_ac1,
  krippendorff_alpha,
  majority,
  percent_agreement,
)
from fmd_jax.trust.calibration import calibrate, write_calibration
from fmd_jax.trust.consensus import dawid_skene
from fmd_jax.trust.scoring import score, table

__all__ = [
  "accuracy_by_margin",
  "calibrate",
  "cohen_kappa",
  "dawid_skene",
  "gwet_ac1",
  "krippendorff_alpha",
  "majority",
  "percent_agreement",
  "score",
  "table",
  "write_calibration",
]
