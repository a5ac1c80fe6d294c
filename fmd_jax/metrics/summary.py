"""All numbers of one method under one protocol."""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from fmd_jax.metrics.bootstrap import LEVEL, RESAMPLES
from fmd_jax.metrics.diversity import mean_cosine, prefix_entropy, rarefied, vendi
from fmd_jax.metrics.rates import distinct_failures, flags, rates
from fmd_jax.metrics.skills import MORE_THAN, n_skills, skill_coverage, skill_table


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
    value, low, high, count, n; "failures" with rows and distinct; "ld" as of
    `prefix_entropy`; "sd" with vendi, mean_cosine, n; "skills" with count,
    coverage, more_than, table. "ld", "sd" and "skills" hold "rarefied" and
    "common_n". "sd" and "skills" are None when nothing
    is known of them.

  Raises:
    ValueError: when embeddings and valid rows differ in number.
  """
  columns = flags(df)
  rows = df[columns["valid"]]
  n = len(rows)
  if embeddings is not None and len(embeddings) != n:
    raise ValueError(f"{len(embeddings)} embeddings for {n} valid rows")
  found = rates(df, resamples=resamples, seed=seed, level=level)

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
    } | at_common_n(lambda i: vendi(embeddings[i]))
  if "skills" in df and rows["skills"].notna().any():
    skills = [list(own) for own in rows["skills"].dropna()]
    table = skill_table(df, resamples=resamples, seed=seed, level=level)
    cells = table.astype(object).where(table.notna(), None)
    out["skills"] = {
      "count": n_skills(skills),
      "coverage": skill_coverage(skills),
      "more_than": MORE_THAN,
      "table": cells.to_dict("records"),
    } | at_common_n(lambda i: n_skills([skills[j] for j in i]), len(skills))
  return out
