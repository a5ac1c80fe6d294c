"""One kind of method against another, within a grid: RL against all that is not.

Ratios of FDR and LD, exclusive skills: what Tables 1 and 3 claim.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from fmd_jax.metrics.skills import MORE_THAN, incidence


def by_skill(rows: pd.DataFrame) -> pd.DataFrame:
  """Valid questions and failures of each skill: a frame skill -> n, failures.

  Args:
    rows: with status, valid, correct and `skills`, a list or null.
  """
  found = incidence(rows)
  failures, n = found.sums().sum(1).astype(int)
  return pd.DataFrame({"n": n, "failures": failures}, index=found.names)


def exclusive(own: pd.DataFrame, others: Sequence[pd.DataFrame]) -> pd.DataFrame:
  """The skills of more than 20 questions that no other method has such a number of.

  Args:
    own: from `by_skill`.
    others: the same of each method of the other kind.
  """
  own = own[own["n"] > MORE_THAN]
  theirs = {skill for other in others for skill in other.index[other["n"] > MORE_THAN]}
  return own[~own.index.isin(theirs)]


def rivals(name: str, names: Collection[str], group: Collection[str]) -> list[str]:
  """The rows of the other kind, of a grid whose `group` is one of the two."""
  return [other for other in names if (other in group) != (name in group)]


def pairs(
  rows: Sequence[Mapping[str, Any]],
  group: Collection[str],
  compare_two,
) -> list[dict[str, Any]]:
  """Each row of the group against each of the others, over the seeds they share.

  Args:
    rows: of a table: row, seed, protocol and the metrics.
    group: names of rows.
    compare_two: (row, other) -> fdr_ratio, ld_ratio and qvr_points of two rows of the
      same seed and protocol, each as value, low, high.
  """
  places = {(row["row"], row["protocol"], row["seed"]): row for row in rows}
  out = []
  for protocol in dict.fromkeys(row["protocol"] for row in rows):
    names = dict.fromkeys(row["row"] for row in rows if row["protocol"] == protocol)
    seeds = dict.fromkeys(row["seed"] for row in rows if row["protocol"] == protocol)
    for name in names:
      for other in rivals(name, names, group) if name in group else ():
        found = {
          seed: compare_two(places[name, protocol, seed], places[other, protocol, seed])
          for seed in seeds
          if (name, protocol, seed) in places and (other, protocol, seed) in places
        }
        if found:
          pair = {"row": name, "other": other, "protocol": protocol}
          out.append(pair | {"seeds": list(found), "found": list(found.values())})
  return out
