"""Every training reward again, from the rows of the Parquet records alone.

Shares no code with fmd_jax.rewards on purpose: it goes back over all earlier rows
for every row, so it is quadratic and short.
"""

import re

import numpy as np


def _prefix(question, length):
  words = []
  for word in question.lower().split():
    word = re.sub(r"^[\W_]+", "", word)
    word = re.sub(r"[\W_]+$", "", word)
    if word:
      words.append(word)
  return tuple(words[:length])


def _cosine(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def recompute_rewards(
  rows_df, embed, terms, lambdas, prefix_length, lexical="paper", aggregate="mean"
):
  """Eq. 5 for every row of one method's training records.

  Args:
    rows_df: columns of `fmd_jax.types.Record`, all steps of one method, sorted by
      step, image order, response, slot.
    embed: list of questions -> [N, E].
    terms: config.reward.terms.
    lambdas: (lambda_scale, lambda_penalty).
    prefix_length: L.
    lexical: config.reward.lexical.
    aggregate: config.reward.aggregate, "mean" or "sum" or "max".

  Returns:
    dict of [N] float arrays delta_emb, delta_ifreq, reward, response_reward; NaN
    where the record must hold null.
  """
  scale, penalty = lambdas
  rows = rows_df.to_dict("records")
  texts = sorted({row["question"] for row in rows if row["status"] != "unparsed"})
  vectors = dict(zip(texts, embed(texts) if texts else [], strict=True))
  n = len(rows)
  names = ("delta_emb", "delta_ifreq", "reward", "response_reward")
  out = {name: np.full(n, np.nan) for name in names}

  def is_failure(row):
    return row["status"] == "ok" and row["valid"] and not row["correct"]

  def response(row):
    return row["step"], row["group_id"], row["image_id"], row["response_index"]

  for i, row in enumerate(rows):
    if row["status"] == "unscored":
      continue
    if row["status"] == "unparsed" or not row["valid"]:
      out["reward"][i] = -penalty if "penalty" in terms else 0.0
      continue
    if row["correct"]:
      out["reward"][i] = 0.0
      continue
    bank = [r for r in rows if r["step"] < row["step"] and is_failure(r)]
    total = 0.0
    if "semantic" in terms:
      compared = [r for r in bank if r["image_id"] == row["image_id"]]
      compared += [
        r
        for r in rows
        if response(r) == response(row)
        and r["slot"] < row["slot"]
        and r["status"] != "unparsed"
      ]
      own = vectors[row["question"]]
      cosines = [_cosine(own, vectors[r["question"]]) for r in compared]
      delta = min(max(1.0 - max(cosines), 0.0), 1.0) if cosines else 1.0
      out["delta_emb"][i] = delta
      total += delta
    if "lexical" in terms:
      mine = _prefix(row["question"], prefix_length)
      others = [_prefix(r["question"], prefix_length) for r in bank]
      count = others.count(mine)
      if lexical == "relative":
        count = count * len(set(others)) / len(others) if others else 0
      out["delta_ifreq"][i] = 1 / (1 + count)
      total += out["delta_ifreq"][i]
    on = "semantic" in terms or "lexical" in terms
    out["reward"][i] = scale * total if on else 1.0

  members = {}
  for i, row in enumerate(rows):
    members.setdefault(response(row), []).append(i)
  for indices in members.values():
    values = [out["reward"][i] for i in indices if not np.isnan(out["reward"][i])]
    if values:
      reduce = {"mean": lambda v: sum(v) / len(v), "sum": sum, "max": max}[aggregate]
      out["response_reward"][indices] = reduce(values)
  return out
