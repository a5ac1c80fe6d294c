"""Rows and embeddings to numbers: NumPy, pandas and SciPy only, free of jax."""

from fmd_jax.metrics.bootstrap import Estimate, cluster_sums, ratio_estimates, wilson
from fmd_jax.metrics.diversity import (
  mean_cosine,
  prefix_entropy,
  rarefied,
  vendi,
)
from fmd_jax.metrics.planted import area_ratio, planted_truth
from fmd_jax.metrics.rates import compare, distinct_failures, fdr_ratio, flags, rates
from fmd_jax.metrics.skills import n_skills, skill_coverage, skill_table
from fmd_jax.metrics.summary import summarise

__all__ = [
  "Estimate",
  "area_ratio",
  "cluster_sums",
  "compare",
  "distinct_failures",
  "fdr_ratio",
  "flags",
  "mean_cosine",
  "n_skills",
  "planted_truth",
  "prefix_entropy",
  "rarefied",
  "rates",
  "ratio_estimates",
  "skill_coverage",
  "skill_table",
  "summarise",
  "vendi",
  "wilson",
]
