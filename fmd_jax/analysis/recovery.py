"""On the testbed: how well the taxonomy recovers the skills that questions take."""

from typing import Any

import numpy as np
import pandas as pd

from fmd_jax.analysis.rows import known


def true_skill_of(rows: pd.DataFrame) -> dict[str, str]:
  """Which of the world's skills each skill of the taxonomy stands for most often.

  A question counts for its first skill on both sides: what it is filed under.
  """
  pairs = _filed(rows)
  if pairs.empty:
    return {}
  counts = pairs.value_counts().rename("n").reset_index()
  counts = counts.sort_values(["n", "true"], ascending=[False, True])
  return dict(
    counts.drop_duplicates("skill")[["skill", "true"]].itertuples(index=False)
  )


def _filed(rows: pd.DataFrame) -> pd.DataFrame:
  """skill, true: of each valid question with both, by what it is filed under."""
  own = known(rows)
  own = own[own["true_skills"].map(lambda s: s is not None and len(s) > 0)]
  return pd.DataFrame({"skill": own["filed"], "true": own["true_skills"].str[0]})


def score(rows: pd.DataFrame, seed: int = 0) -> dict[str, Any] | None:
  """Agreement of the taxonomy with the truth.

  Args:
    rows: of `rows.read`.
    seed: of the shuffled control.

  Returns:
    Plain JSON: "questions", "ami" (adjusted mutual information between the skill that
    the taxonomy files a question under and the true one), "shuffled" (the same after
    shuffling the taxonomy's), "ari", "missed" (true skills for which no skill of the
    taxonomy stands), "recall" and "precision" (of pairs of question and skill, each
    skill read as what it stands for), "skills": one of skill, stands_for, n, purity
    each. None when the truth is not known.
  """
  from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

  pairs = _filed(rows)
  if pairs.empty:
    return None
  true, skill = (pd.factorize(pairs[name])[0] for name in ("true", "skill"))
  shuffled = np.random.default_rng(seed).permutation(skill)
  stands = true_skill_of(rows)
  own = known(rows)
  own = own[own["true_skills"].notna()]
  said = [{stands.get(s, s) for s in skills} for skills in own["skills"]]
  truth = [set(skills) for skills in own["true_skills"]]
  both = sum(len(a & b) for a, b in zip(said, truth))
  counts = pairs.groupby("skill")["true"].agg(
    n="size", hits=lambda own: int(own.value_counts().iloc[0])
  )
  names = sorted({s for skills in truth for s in skills})
  return {
    "questions": len(pairs),
    "ami": float(adjusted_mutual_info_score(true, skill)),
    "shuffled": float(adjusted_mutual_info_score(true, shuffled)),
    "ari": float(adjusted_rand_score(true, skill)),
    "missed": [name for name in names if name not in set(stands.values())],
    "recall": both / max(sum(map(len, truth)), 1),
    "precision": both / max(sum(map(len, said)), 1),
    "skills": [
      {
        "skill": name,
        "stands_for": stands[name],
        "n": int(row.n),
        "purity": row.hits / row.n,
      }
      for name, row in counts.sort_values("n", ascending=False).iterrows()
    ],
  }
