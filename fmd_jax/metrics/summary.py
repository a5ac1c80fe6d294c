"""All numbers of one method under one protocol."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from fmd_jax.metrics.bootstrap import LEVEL, RESAMPLES
from fmd_jax.metrics.curves import cumulative
from fmd_jax.metrics.diversity import mean_cosine, prefix_entropy, rarefied, vendi
from fmd_jax.metrics.rates import distinct_failures, flags, rates
from fmd_jax.metrics.skills import (
  MORE_THAN,
  RATED_MORE_THAN,
  complexity,
  mean_skill_rate,
  n_combinations,
  n_skills,
  skill_coverage,
  skill_table,
)


def summarise(
  df: pd.DataFrame,
  embeddings: Float[np.ndarray, "N E"] | None = None,
  *,
  common_n: int | None = None,
  resamples: int = RESAMPLES,
  draws: int = 5,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, Any]:
  """Rates, diversity and skills of some rows, as plain JSON.

  Args:
    df: rows with image_id, status, question, valid, correct, and `skills`, a list,
      where the skills of a valid row are known.
    embeddings: [N, E] of the questions of the N valid rows, in their order
      (`df.loc[flags(df)["valid"], "question"]`); None leaves "sd" out.
    common_n: the number of valid questions at which "rarefied" diversity is given,
      for comparison between methods; None leaves it None.
    resamples: draws of the bootstraps.
    draws: of the rarefaction.
    seed: of all draws.
    level: of the intervals.

  Returns:
    "questions", "images", "level"; "qvr", "fdr", "unparsed", "unscored" with
    value, low, high, count, n; "failures" with rows and distinct; "curve" as of
    `cumulative`; "ld" as of `prefix_entropy`; "sd" with vendi, mean_cosine, n; "skills"
    with count (# Skills), coverage (SC), combinations, complexity, more_than; table,
    mean_rate and rated_more_than (failure rates per skill). "ld", "sd", "skills" and
    "skills.combinations" hold "rarefied" and "common_n". "sd" and "skills" are None
    when nothing is known of them; None is what is not defined, never NaN.

  Raises:
    ValueError: when embeddings and valid rows differ in number.
  """
  columns = flags(df)
  rows = df[columns["valid"]]
  n = len(rows)
  if embeddings is not None and len(embeddings) != n:
    raise ValueError(f"{len(embeddings)} embeddings for {n} valid rows")
  options = {"resamples": resamples, "seed": seed, "level": level}
  found = rates(df, **options)

  def at_common_n(measure, n=n) -> dict[str, Any]:
    value = None
    if common_n is not None:
      value = rarefied(measure, n, common_n, draws=draws, seed=seed)
    return {"rarefied": value, "common_n": common_n}

  questions = rows["question"].tolist()
  out: dict[str, Any] = {
    "questions": len(df),
    "images": int(df["image_id"].nunique()),
    "level": level,
    **{name: estimate._asdict() for name, estimate in found.items()},
    "failures": {
      "rows": int(columns["failure"].sum()),
      "distinct": distinct_failures(df),
    },
    "curve": cumulative(df, **options),
    "ld": prefix_entropy(questions)
    | at_common_n(lambda i: prefix_entropy([questions[j] for j in i])["ld"] or 0.0),
    "sd": None,
    "skills": None,
  }
  if embeddings is not None:
    out["sd"] = {
      "vendi": vendi(embeddings),
      "mean_cosine": mean_cosine(embeddings),
      "n": n,
    } | at_common_n(lambda i: vendi(embeddings, i))
  if "skills" in df and rows["skills"].notna().any():
    out["skills"] = _skills(df, rows.dropna(subset="skills"), at_common_n, options)
  return out


def _skills(df, rows, at_common_n, options: dict[str, Any]) -> dict[str, Any]:
  """`rows`: the valid ones of `df` whose skills are known."""
  skills = [list(own) for own in rows["skills"]]
  table = skill_table(df, more_than=RATED_MORE_THAN, **options)
  combinations = {"count": n_combinations(skills)}
  combinations |= at_common_n(
    lambda i: n_combinations([skills[j] for j in i]), len(skills)
  )
  return {
    "count": n_skills(skills),
    "more_than": MORE_THAN,
    "coverage": skill_coverage(skills),
    "combinations": combinations,
    "complexity": complexity(rows["image_id"], skills, **options),
    "table": table.astype(object).where(table.notna(), None).to_dict("records"),
    "mean_rate": mean_skill_rate(df, **options),
    "rated_more_than": RATED_MORE_THAN,
  } | at_common_n(lambda i: n_skills([skills[j] for j in i]), len(skills))
