"""Skills: how many are probed, how many a question needs, where the target fails."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fmd_jax.metrics.bootstrap import LEVEL, RESAMPLES, ratio_estimates
from fmd_jax.metrics.rates import flags

MORE_THAN = 20  # questions; the paper's filter


def n_skills(skills: Sequence[Sequence[str]], more_than: int = MORE_THAN) -> int:
  """# Skills: those that more than `more_than` questions need.

  Args:
    skills: the skills of each valid question.
    more_than: a skill with exactly this many does not count.
  """
  counts = Counter(skill for own in skills for skill in set(own))
  return sum(count > more_than for count in counts.values())


def skill_coverage(skills: Sequence[Sequence[str]]) -> float | None:
  """SC: mean number of distinct skills of a valid question; None without any."""
  return float(np.mean([len(set(own)) for own in skills])) if len(skills) else None


def _incidence(df: pd.DataFrame):
  """Distinct (row, skill) pairs of the valid rows with known skills, as codes.

  Returns:
    Names of the S skills, sorted; then [M] skill codes, [M] image codes, [M]
    failure flags; then the number of images.
  """
  columns = flags(df)
  valid = columns["valid"] & df["skills"].notna().to_numpy()
  images, image_ids = pd.factorize(df["image_id"], sort=True)
  own = [sorted(set(skills)) for skills in df.loc[valid, "skills"]]
  lengths = [len(skills) for skills in own]
  flat = np.array([skill for skills in own for skill in skills], object)
  codes, names = pd.factorize(flat, sort=True)
  rows = np.repeat(np.flatnonzero(valid), lengths)
  return list(names), codes, images[rows], columns["failure"][rows], len(image_ids)


def skill_table(
  df: pd.DataFrame,
  *,
  more_than: int = MORE_THAN,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> pd.DataFrame:
  """Failure rate of each skill, ranked on one half of the images.

  The worst of many noisy rates looks worse than it is. So the rank comes from one
  half of the images and `estimate` from the other, which had no part in it.

  Args:
    df: rows with image_id, status, valid, correct and `skills`, a list; valid rows
      where it is null are left out.
    more_than: skills with this many questions or fewer are left out.
    resamples: draws of the bootstrap, clustered by image.
    seed: of the draws and of the halves.
    level: of the intervals.

  Returns:
    One row a skill, worst first by the ranking half: skill, n, failures, fdr, low,
    high (all images); rank, ranking_n, ranking_fdr (one half); estimate_n,
    estimate, estimate_low, estimate_high (the other half). What has no data is NaN.
  """
  names, skills, images, failures, n_images = _incidence(df)
  counts = np.zeros((2, n_images, len(names)))
  np.add.at(counts[1], (images, skills), 1)
  np.add.at(counts[0], (images, skills), failures)
  kept = counts[1].sum(0) > more_than
  names = [name for name, keep in zip(names, kept) if keep]
  wrong, total = counts[:, :, kept]
  first = np.zeros(n_images, bool)
  first[np.random.default_rng(seed).permutation(n_images)[: (n_images + 1) // 2]] = True

  def estimates(rows: np.ndarray) -> pd.DataFrame:
    found = ratio_estimates(
      wrong[rows], total[rows], resamples=resamples, seed=seed, level=level
    )
    ends = dict.fromkeys(["value", "low", "high"], float)
    return pd.DataFrame(found, columns=[*ends, "count", "n"]).astype(ends)

  if not names:
    return pd.DataFrame(columns=COLUMNS)
  everywhere, other = estimates(np.ones(n_images, bool)), estimates(~first)
  ranking_n = total[first].sum(0)
  with np.errstate(invalid="ignore"):
    ranking_fdr = wrong[first].sum(0) / ranking_n
  table = pd.DataFrame(
    {
      "skill": names,
      "n": everywhere["n"],
      "failures": everywhere["count"],
      "fdr": everywhere["value"],
      "low": everywhere["low"],
      "high": everywhere["high"],
      "ranking_n": ranking_n.astype(int),
      "ranking_fdr": ranking_fdr,
      "estimate_n": other["n"],
      "estimate": other["value"],
      "estimate_low": other["low"],
      "estimate_high": other["high"],
    }
  )
  # Ties by more data, then by name, so that the order never depends on the rows'.
  table = table.sort_values(
    ["ranking_fdr", "ranking_n", "skill"],
    ascending=[False, False, True],
    na_position="last",
  ).reset_index(drop=True)
  table["rank"] = np.arange(1, len(table) + 1)
  return table[COLUMNS]


COLUMNS = [
  "skill",
  "n",
  "failures",
  "fdr",
  "low",
  "high",
  "rank",
  "ranking_n",
  "ranking_fdr",
  "estimate_n",
  "estimate",
  "estimate_low",
  "estimate_high",
]
