"""Failure modes: under which circumstances a skill fails, ranked, without any label.

A mode is a skill, or a skill with a word of the question ("object presence detection"
with "yellow"). A question about yellow circles counts for both words; to blame the
right one, modes are taken one by one, the highest lower bound of the failure rate
first, each time without the questions of those already taken.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from fmd_jax import metrics
from fmd_jax.analysis.evolution import words
from fmd_jax.analysis.rows import known

FEWEST = 15  # distinct questions of a mode
MOST = 50  # modes of a ranking
WHOLE = ""  # the word of a mode that is a skill as such
COLUMNS = [
  "rank", "skill", "word", "n", "failures", "fdr", "low", "high", "bound", "q",
  "example",
]  # fmt: skip
# A word in more of a skill's questions than this says no more than the skill.
_EVERYWHERE = 0.9


def rank(rows: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
  """Failure modes, worst first.

  Each (image, question) counts once, as it was first answered.

  Args:
    rows: of `rows.read`, of one answerer; all methods may be pooled.
    most: modes at most. It ends before that when no mode left fails more often than
      all questions do.

  Returns:
    rank, skill, word ("" for the skill as such), n, failures, fdr, low, high (bootstrap
    over images), bound (the lower bound that it is ranked by, 95 % over all candidates
    at once), q (Benjamini and Hochberg's, over all candidates: that it fails more often
    than all questions), example (a failure). n and what follows count the questions of
    no mode before it.
  """
  own = known(rows).sort_values("place", kind="stable")
  own = own.drop_duplicates(["image_id", "question"]).reset_index(drop=True)
  names, pairs = _candidates(own)
  if not names:
    return pd.DataFrame(columns=COLUMNS)
  failed = own["failure"].to_numpy()
  base = failed.mean()
  n, wrong = _sums(pairs, failed, np.ones(len(own), bool), len(names))
  # P(X >= wrong): 1 for none.
  p = np.where(wrong > 0, special.bdtrc(np.maximum(wrong - 1, 0), n, base), 1.0)
  q = metrics.benjamini_hochberg(p)
  # Of all candidates at once: the luckiest of many small ones is not the worst mode.
  alpha = 0.05 / len(names)
  counted = np.ones(len(own), bool)
  taken: list[tuple[int, int, int, float]] = []
  members: list[np.ndarray] = []
  while len(taken) < most:
    n, wrong = _sums(pairs, failed, counted, len(names))
    bound = np.where(
      (n >= FEWEST) & (wrong > 0), special.betaincinv(wrong, n - wrong + 1, alpha), 0.0
    )
    # Ties by more data, then by name: the candidates are sorted.
    best = int(np.lexsort((np.arange(len(names)), -n, -bound))[0])
    if bound[best] <= base:
      break
    rows_of = pairs[0][pairs[1] == best]
    rows_of = rows_of[counted[rows_of]]
    taken.append((best, int(n[best]), int(wrong[best]), float(bound[best])))
    members.append(rows_of)
    counted[rows_of] = False
  return pd.DataFrame(_lines(own, names, taken, members, q), columns=COLUMNS)


def _lines(own, names, taken, members, q) -> list[dict[str, Any]]:
  image, images = pd.factorize(own["image_id"], sort=True)
  totals = np.zeros((len(images), len(taken)))
  wrong = np.zeros_like(totals)
  failed = own["failure"].to_numpy()
  for k, rows in enumerate(members):
    np.add.at(totals[:, k], image[rows], 1)
    np.add.at(wrong[:, k], image[rows[failed[rows]]], 1)
  out = []
  for k, (estimate, (candidate, n, failures, bound)) in enumerate(
    zip(metrics.ratio_estimates(wrong, totals), taken)
  ):
    skill, word = names[candidate]
    example = members[k][failed[members[k]]][0]
    out.append(
      {
        "rank": k + 1,
        "skill": skill,
        "word": word,
        "n": n,
        "failures": failures,
        "fdr": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "bound": bound,
        "q": float(q[candidate]),
        "example": own["question"].iloc[example],
      }
    )
  return out


def _candidates(own: pd.DataFrame):
  """[(skill, word)], sorted; and (row, candidate) of each pair."""
  lines = []
  for row, (question, skills) in enumerate(zip(own["question"], own["skills"])):
    kinds = [WHOLE, *sorted(set(words(question)))]
    lines += [(row, skill, word) for skill in set(skills) for word in kinds]
  table = pd.DataFrame(lines, columns=["row", "skill", "word"])
  if table.empty:
    return [], (np.zeros(0, int), np.zeros(0, int))
  counts = table.groupby(["skill", "word"]).size().rename("n").reset_index()
  whole = counts[counts["word"] == WHOLE].set_index("skill")["n"]
  share = counts["n"] / counts["skill"].map(whole)
  kept = (counts["n"] >= FEWEST) & ((counts["word"] == WHOLE) | (share <= _EVERYWHERE))
  counts = counts[kept].sort_values(["skill", "word"], ignore_index=True)
  counts["candidate"] = np.arange(len(counts))
  table = table.merge(counts[["skill", "word", "candidate"]], on=["skill", "word"])
  names = list(zip(counts["skill"], counts["word"]))
  return names, (table["row"].to_numpy(), table["candidate"].to_numpy())


def _sums(pairs, failed, counted, size: int):
  row, candidate = pairs
  there = counted[row]
  n = np.bincount(candidate[there], minlength=size)
  wrong = np.bincount(candidate[there & failed[row]], minlength=size)
  return n, wrong


def match_planted(
  ranked: pd.DataFrame,
  true_skill: Mapping[str, str],
  census: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
  """Which modes are planted cells `skill/attribute=value` of the testbed.

  Args:
    ranked: of `rank`.
    true_skill: skill of the taxonomy -> the world's skill that it stands for.
    census: cell -> rate, planted.

  Returns:
    `ranked` with cell (the cell of the mode's skill with its word as the value, None
    without one), planted, and census (the cell's true failure rate).
  """
  cells: dict[tuple[str, str], str] = {}
  for cell in census:
    skill, _, rest = cell.partition("/")
    cells[skill, rest.partition("=")[2].replace("_", " ")] = cell
  out = ranked.copy()
  keys = [(true_skill.get(s, s), w) for s, w in zip(out["skill"], out["word"])]
  # A plural names the same value: "triangles".
  found = [
    cells.get(key) or cells.get((key[0], key[1].removesuffix("s"))) for key in keys
  ]
  out["cell"] = pd.Series(found, index=out.index, dtype=object)
  out["planted"] = [c is not None and bool(census[c]["planted"]) for c in found]
  out["census"] = [census[c]["rate"] if c else np.nan for c in found]
  return out
