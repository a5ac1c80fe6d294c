"""Skills: how many are probed, how many a question needs, where the target fails."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from fmd_jax.metrics.bootstrap import (
  LEVEL,
  RESAMPLES,
  percentiles,
  ratio_estimates,
  resample_sums,
)
from fmd_jax.metrics.rates import flags

MORE_THAN = 20  # questions; the paper's filter of "# Skills"
RATED_MORE_THAN = 100  # questions; its filter of failure rates per skill (Table 2)
COMPLEX = 4  # skills that a complex question needs at least (Figure 7b)
# What names a row of records, and of taxonomy/assignments.parquet.
KEY = ["method", "split", "step", "image_id", "response_index", "slot", "question"]
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


def n_combinations(skills: Sequence[Sequence[str]]) -> int:
  """Unique skill combinations (Figure 7a): distinct sets of skills, the empty aside."""
  return len({frozenset(own) for own in skills} - {frozenset()})


def complexity(
  image_ids: Sequence[str] | pd.Series,
  skills: Sequence[Sequence[str]],
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, Any]:
  """How many skills the questions need (Figure 7b), with intervals clustered by image.

  Args:
    image_ids: [N] of the questions.
    skills: of each of them.
    resamples: draws of the bootstrap.
    seed: of the draws.
    level: of the intervals.

  Returns:
    "mean" (value, low, high; SC), "complex" (the share that needs `COMPLEX` or more, as
    an `Estimate`), "distribution": one of skills, value, low, high, count, n for each
    number of skills from 0 to the highest there is.
  """
  images, names = pd.factorize(pd.Series(image_ids, dtype=object), sort=True)
  sizes = np.array([len(set(own)) for own in skills], int)
  width = int(sizes.max(initial=-1)) + 1
  counts = np.bincount(images * width + sizes, minlength=len(names) * width)
  counts = counts.reshape(len(names), width)
  shares = np.concatenate([counts, counts[:, COMPLEX:].sum(1, keepdims=True)], 1)
  total = counts.sum(1)
  *each, complex_ = ratio_estimates(
    shares,
    np.repeat(total[:, None], width + 1, 1),
    resamples=resamples,
    seed=seed,
    level=level,
  )
  sums = np.stack([counts @ np.arange(width), total], 1).astype(float)
  drawn = resample_sums(sums, resamples, seed)
  drawn = drawn[drawn[:, 1] > 0]
  ends = percentiles(drawn[:, 0] / drawn[:, 1], level)
  # Without width there is one image, or all agree: that says nothing of others.
  low, high = ends if ends[0] != ends[1] else (None, None)
  mean = {"value": skill_coverage(skills), "low": low, "high": high}
  return {
    "mean": mean,
    "complex": complex_._asdict() | {"skills": COMPLEX},
    "distribution": [
      {"skills": k, **estimate._asdict()} for k, estimate in enumerate(each)
    ],
  }


class Incidence(NamedTuple):
  """Which valid question needs which skill, each pair once.

  Attributes:
    names: of the S skills, sorted.
    images: the I image ids, sorted.
    skill, image: [M] codes of both.
    failed: [M].
  """

  names: list[str]
  images: pd.Index
  skill: Int[np.ndarray, "M"]
  image: Int[np.ndarray, "M"]
  failed: Bool[np.ndarray, "M"]

  def sums(self) -> Float[np.ndarray, "2 I S"]:
    """Failures and questions by image and skill."""
    shape = len(self.images), len(self.names)
    cell = self.image * shape[1] + self.skill
    counts = (
      np.bincount(own, minlength=shape[0] * shape[1]).reshape(shape)
      for own in (cell[self.failed], cell)
    )
    return np.stack([*counts]).astype(float)


def incidence(df: pd.DataFrame) -> Incidence:
  """Of the valid rows with known skills; the images are those of all rows."""
  columns = flags(df)
  valid = columns["valid"] & df["skills"].notna().to_numpy()
  images, image_ids = pd.factorize(df["image_id"], sort=True)
  own = [sorted(set(skills)) for skills in df.loc[valid, "skills"]]
  flat = np.array([skill for skills in own for skill in skills], object)
  codes, names = pd.factorize(flat, sort=True)
  rows = np.repeat(np.flatnonzero(valid), [len(skills) for skills in own])
  failed = columns["failure"][rows]
  return Incidence(list(names), pd.Index(image_ids), codes, images[rows], failed)


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
  found = incidence(df)
  names, n_images, counts = found.names, len(found.images), found.sums()
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


def mean_skill_rate(
  df: pd.DataFrame,
  *,
  more_than: int = RATED_MORE_THAN,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, Any]:
  """Mean over skills of their failure rates (the paper's Table 2).

  Args:
    df: as in `skill_table`.
    more_than: skills with this many questions or fewer are left out.
    resamples: draws of the bootstrap, clustered by image; the skills stay the same.
    seed: of the draws.
    level: of the interval.

  Returns:
    value, low, high, skills (how many), more_than; None where there is no such skill,
    and no interval where all images agree.
  """
  wrong, total = incidence(df).sums()
  kept = total.sum(0) > more_than
  wrong, total = wrong[:, kept], total[:, kept]
  skills = int(kept.sum())
  out = {"value": None, "low": None, "high": None}
  if skills:
    out["value"] = float((wrong.sum(0) / total.sum(0)).mean())
    drawn = resample_sums(np.concatenate([wrong, total], 1), resamples, seed)
    # A skill that no drawn image has is left out of that draw's mean.
    asked = drawn[:, skills:] > 0
    rates = drawn[:, :skills] / np.where(asked, drawn[:, skills:], 1.0)
    means = rates.sum(1)[asked.any(1)] / asked.sum(1)[asked.any(1)]
    ends = percentiles(means, level)
    if ends[0] != ends[1]:
      out["low"], out["high"] = ends
  return out | {"skills": skills, "more_than": more_than}


def with_skills(df: pd.DataFrame, assignments: pd.DataFrame) -> pd.DataFrame:
  """Rows with the skills that a taxonomy gave them.

  Args:
    df: rows with the columns of `KEY`.
    assignments: one row for each question row and skill, with `KEY` and `skill`; a
      null skill is an outlier and left out.

  Returns:
    `df` with `skills` anew: a sorted list, or None for a row without an assignment.

  Raises:
    ValueError: `assignments` lacks a column.
  """
  missing = [name for name in (*KEY, "skill") if name not in assignments]
  if missing:
    raise ValueError(
      f"taxonomy/assignments.parquet has no column {', '.join(missing)}: make it anew"
    )
  pairs = assignments.loc[assignments["skill"].notna(), [*KEY, "skill"]]
  rows = df[KEY].assign(row=np.arange(len(df)))
  found = rows.merge(pairs.drop_duplicates(), on=KEY).sort_values(["row", "skill"])
  skills = np.full(len(df), None, object)
  starts = np.flatnonzero(np.diff(found["row"].to_numpy(), prepend=-1))
  flat = found["skill"].tolist()
  for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(flat)]):
    skills[found["row"].iat[start]] = flat[start:end]
  return df.assign(skills=pd.Series(skills, index=df.index, dtype=object))
