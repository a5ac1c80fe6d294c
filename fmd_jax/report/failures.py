"""Which groups of questions the answerer fails, and the evidence for it."""

import hashlib

import numpy as np
import pandas as pd

from fmd_jax import metrics


def distinct_valid(rows: pd.DataFrame) -> pd.DataFrame:
  """The valid questions, each (image, question) once, in an order of chance.

  A question asked a hundred times is one finding. The order is a hash's: examples
  are shown as they come, not the first or the best ones.

  Args:
    rows: of `evaluations/`, of any methods.

  Returns:
    Rows with the added column `groups`, a list: the skills where they are known,
    else the question's first words.
  """
  rows = rows[metrics.flags(rows)["valid"]]
  rows = rows.drop_duplicates(["image_id", "question"])
  rows = rows.iloc[np.argsort(_keys(rows).map(_hash).to_numpy(), kind="stable")]
  if knows_skills(rows):
    groups = [list(own) if np.ndim(own) else [] for own in rows["skills"]]
  else:
    groups = [[prefix] for prefix in rows["prefix"]]
  return rows.assign(groups=pd.Series(groups, index=rows.index, dtype=object))


def knows_skills(rows: pd.DataFrame) -> bool:
  return "skills" in rows and bool(rows["skills"].notna().any())


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
  """`metrics.skill_table` of the groups; a small run gets a lower threshold.

  Args:
    rows: from `distinct_valid`.
  """
  grouped = rows.assign(skills=rows["groups"])
  for more_than in (20, 5, 0):
    table = metrics.skill_table(grouped, more_than=more_than)
    if len(table):
      break
  return table


def examples(
  rows: pd.DataFrame, group: str, count: int, used: set[str]
) -> pd.DataFrame:
  """Up to `count` failures of a group, on different pictures where there are enough.

  Args:
    rows: from `distinct_valid`.
    group: one of `groups`.
    count: how many.
    used: what was shown already, so that a question that needs two skills is shown
      once; those chosen are added.
  """
  wrong = rows[metrics.flags(rows)["failure"]]
  # As an array: without any failure an empty list would choose no columns.
  wrong = wrong[np.array([group in own for own in wrong["groups"]], bool)]
  fresh = wrong[~_keys(wrong).isin(used)]
  wrong = fresh if len(fresh) else wrong
  again = wrong["image_id"].duplicated() | wrong["question"].duplicated()
  chosen = pd.concat([wrong[~again], wrong[again]]).head(count)
  used.update(_keys(chosen))
  return chosen


def by_method(
  rows: pd.DataFrame, methods: list[str]
) -> dict[str, dict[str, tuple[int, int]]]:
  """group -> method -> (wrong, valid), each (image, question) of a method once.

  Args:
    rows: of `evaluations/`.
    methods: names.
  """
  found: dict[str, dict[str, tuple[int, int]]] = {}
  for method in methods:
    own = distinct_valid(rows[rows["method"] == method])
    flat = own.assign(wrong=metrics.flags(own)["failure"]).explode("groups")
    for group, part in flat.groupby("groups"):
      counts = int(part["wrong"].sum()), len(part)
      found.setdefault(str(group), {})[method] = counts
  return found


def _keys(rows: pd.DataFrame) -> pd.Series:
  return rows["image_id"].astype(str) + "\n" + rows["question"].astype(str)


def _hash(text: str) -> int:
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
