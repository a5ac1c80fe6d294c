"""What is asked about: tables 2, 3, 8 and 9, figures 6 and 7 of the paper."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fmd_jax import metrics
from fmd_jax.analysis.rows import arms, interval, known
from fmd_jax.metrics.bootstrap import percentiles, resample_sums
from fmd_jax.metrics.skills import MORE_THAN, incidence

RL = ("grpo", "sft_then_grpo")
_LEVEL = 0.95
_RESAMPLES = 1000


def failure_rate_per_skill(rows: pd.DataFrame) -> pd.DataFrame:
  """Table 2: the mean over skills with more than 100 questions of their FDR.

  Returns:
    arm, protocol, rate, rate_low, rate_high, skills (how many are averaged).
  """
  out = []
  for arm, protocol, own in arms(rows):
    found = metrics.mean_skill_rate(own)
    line = {"arm": arm, "protocol": protocol, **interval("rate", found)}
    out.append(line | {"skills": found["skills"]})
  return pd.DataFrame(out)


def skills_per_method(rows: pd.DataFrame) -> pd.DataFrame:
  """Figure 6: # Skills (with more than 20 questions), also of equally many questions.

  Returns:
    arm, protocol, questions, skills, skills_low, skills_high (bootstrap over images),
    common_n and rarefied: # Skills of so many questions, the fewest of the protocol.
  """
  fewest = {
    protocol: min(len(known(own)) for _, p, own in arms(rows) if p == protocol)
    for protocol in rows["protocol"].unique()
  }
  out = []
  for arm, protocol, own in arms(rows):
    own = known(own)
    skills = own["skills"].tolist()
    _, total = incidence(own).sums()
    drawn = (resample_sums(total, _RESAMPLES, 0) > MORE_THAN).sum(1)
    low, high = percentiles(drawn.astype(float), _LEVEL)
    common = fewest[protocol]

    def count(i, skills=skills):
      return metrics.n_skills([skills[j] for j in i])

    out.append(
      {
        "arm": arm,
        "protocol": protocol,
        "questions": len(own),
        "skills": metrics.n_skills(skills),
        "skills_low": low,
        "skills_high": high,
        "common_n": common,
        "rarefied": metrics.rarefied(count, len(own), common),
      }
    )
  return pd.DataFrame(out)


def combinations(rows: pd.DataFrame) -> pd.DataFrame:
  """Figure 7a: unique skill combinations, also of equally many questions.

  Returns:
    arm, protocol, questions, combinations, common_n, rarefied.
  """
  fewest = {
    protocol: min(len(known(own)) for _, p, own in arms(rows) if p == protocol)
    for protocol in rows["protocol"].unique()
  }
  out = []
  for arm, protocol, own in arms(rows):
    skills = known(own)["skills"].tolist()
    common = fewest[protocol]

    def count(i, skills=skills):
      return metrics.n_combinations([skills[j] for j in i])

    out.append(
      {
        "arm": arm,
        "protocol": protocol,
        "questions": len(skills),
        "combinations": metrics.n_combinations(skills),
        "common_n": common,
        "rarefied": metrics.rarefied(count, len(skills), common),
      }
    )
  return pd.DataFrame(out)


def complexity(rows: pd.DataFrame) -> pd.DataFrame:
  """Figure 7b: the share of questions that need 1, 2, 3, … skills.

  Returns:
    arm, protocol, skills ("1", "2", …, "4+" and "mean"), share, share_low, share_high.
    The line "mean" holds SC instead of a share.
  """
  out = []
  for arm, protocol, own in arms(rows):
    own = known(own)
    found = metrics.complexity(own["image_id"].tolist(), own["skills"].tolist())
    lines = [(str(e["skills"]), e) for e in found["distribution"] if e["skills"]]
    many = f"{found['complex']['skills']}+"
    lines = [line for line in lines if int(line[0]) < found["complex"]["skills"]]
    for name, estimate in (*lines, (many, found["complex"]), ("mean", found["mean"])):
      line = {"arm": arm, "protocol": protocol, "skills": name}
      out.append(line | interval("share", estimate))
  return pd.DataFrame(out)


def rates(rows: pd.DataFrame, by: str, more_than: int = MORE_THAN) -> pd.DataFrame:
  """FDR of each skill in each group of rows that has more than `more_than` of it.

  Args:
    rows: of `rows.read`.
    by: the column that makes the groups, e.g. "arm".
    more_than: questions.

  Returns:
    skill, the column `by`, n, fdr, fdr_low, fdr_high.
  """
  out = []
  for group, own in rows.groupby(by, sort=True):
    found = incidence(known(own))
    wrong, total = found.sums()
    kept = np.flatnonzero(total.sum(0) > more_than)
    estimates = metrics.ratio_estimates(wrong[:, kept], total[:, kept])
    for at, estimate in zip(kept, estimates):
      line = {"skill": found.names[at], by: group, "n": estimate.n}
      out.append(line | interval("fdr", estimate))
  columns = ["skill", by, "n", "fdr", "fdr_low", "fdr_high"]
  return pd.DataFrame(out, columns=columns)


def exclusive(
  rows: pd.DataFrame, is_ours: Callable[[str], bool] | None = None
) -> pd.DataFrame:
  """Table 3: skills that only one side asks about, with each arm's failure rate.

  A skill is asked about by an arm that has more than 20 questions of it.

  Args:
    rows: of one protocol.
    is_ours: whether a method is on the first side; by default RL is.

  Returns:
    section ("only RL", "missed by RL"), skill ("average" for the section's mean over
    its skills), arm, n, fdr, fdr_low, fdr_high. Empty when a side has no arm, or
    nothing is exclusive.
  """
  is_ours = is_ours or (lambda method: method in RL)
  ours = {arm: is_ours(method) for arm, method in zip(rows["arm"], rows["method"])}
  table = rates(rows, "arm")
  if len(set(ours.values())) < 2:
    return table.assign(section="").iloc[:0]
  side = table["arm"].map(ours).astype(bool)
  have = {s: set(table.loc[side == s, "skill"]) for s in (True, False)}
  parts = []
  for section, own, mask in (
    ("only RL", have[True] - have[False], side),
    ("missed by RL", have[False] - have[True], ~side),
  ):
    part = table[mask & table["skill"].isin(own)]
    order = part.groupby("skill")["fdr"].mean().sort_values(ascending=False)
    part = part.assign(at=part["skill"].map({s: i for i, s in enumerate(order.index)}))
    part = part.sort_values(["at", "arm"]).drop(columns="at")
    if len(part):
      # Of the section's skills, each the mean of the arms that ask about it.
      average = {"skill": "average", "arm": "", "n": part["n"].sum()}
      average["fdr"] = order.mean()
      part = pd.concat([part, pd.DataFrame([average])], ignore_index=True)
    parts.append(part.assign(section=section))
  out = pd.concat(parts, ignore_index=True)
  return out[["section", "skill", "arm", "n", "fdr", "fdr_low", "fdr_high"]]


def across_answerers(
  rows: pd.DataFrame, answerer: Sequence[str], top: int = 10
) -> pd.DataFrame:
  """Tables 8 and 9: what is hard for all answerers, and what only for some.

  Universally hard: the highest least failure rate over the answerers. Model-specific:
  the largest standard deviation (ddof = 1, the paper's) over them. Only skills that
  every answerer was asked about more than 20 times take part.

  Args:
    rows: questions to several answerers, of one questioner and protocol.
    answerer: of each row.
    top: skills of each ranking.

  Returns:
    ranking ("universally hard", "model-specific"), rank, skill, answerer, n, fdr,
    fdr_low, fdr_high, score (the least rate, or the deviation). Empty with fewer than
    two answerers.
  """
  table = rates(rows.assign(answerer=list(answerer)), "answerer")
  columns = ["ranking", "rank", *table.columns, "score"]
  count = table["answerer"].nunique()
  wide = table.pivot(index="skill", columns="answerer", values="fdr").dropna()
  if count < 2 or wide.empty:
    return pd.DataFrame(columns=columns)
  parts = []
  scores = {"universally hard": wide.min(axis=1), "model-specific": wide.std(axis=1)}
  for ranking, score in scores.items():
    order = score.rename("score").reset_index()
    order = order.sort_values(["score", "skill"], ascending=[False, True]).head(top)
    order["rank"] = np.arange(1, len(order) + 1)
    part = order.merge(table, on="skill").sort_values(["rank", "answerer"])
    parts.append(part.assign(ranking=ranking))
  return pd.concat(parts, ignore_index=True)[columns]
