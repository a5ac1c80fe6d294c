"""Rows and embeddings to numbers: NumPy, pandas and SciPy only, free of jax."""

from fmd_jax.metrics.bootstrap import Estimate, cluster_sums, ratio_estimates, wilson
from fmd_jax.metrics.comparison import (
  benjamini_hochberg,
  compare,
  compare_skills,
  fdr_ratio,
)
from fmd_jax.metrics.correction import corrected, corrected_ratio, difficulty
from fmd_jax.metrics.curves import cumulative
from fmd_jax.metrics.diversity import mean_cosine, prefix_entropy, rarefied, vendi
from fmd_jax.metrics.paired import changes
from fmd_jax.metrics.planted import area_ratio, failing_cells, planted_truth
from fmd_jax.metrics.rates import distinct_failures, flags, rates
from fmd_jax.metrics.skills import (
  complexity,
  mean_skill_rate,
  n_combinations,
  n_skills,
  skill_coverage,
  skill_table,
  with_skills,
)
from fmd_jax.metrics.summary import summarise
from fmd_jax.metrics.tiers import TIERS, at_tier, draws, survivors, tier_of

__all__ = [
  "Estimate",
  "TIERS",
  "area_ratio",
  "at_tier",
  "benjamini_hochberg",
  "changes",
  "cluster_sums",
  "compare",
  "compare_skills",
  "complexity",
  "corrected",
  "corrected_ratio",
  "cumulative",
  "difficulty",
  "distinct_failures",
  "draws",
  "failing_cells",
  "fdr_ratio",
  "flags",
  "mean_cosine",
  "mean_skill_rate",
  "n_combinations",
  "n_skills",
  "planted_truth",
  "prefix_entropy",
  "rarefied",
  "rates",
  "ratio_estimates",
  "skill_coverage",
  "skill_table",
  "summarise",
  "survivors",
  "tier_of",
  "vendi",
  "wilson",
  "with_skills",
]
