"""Which failures of a run are asked again."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import metrics
from fmd_jax.evaluate import allocate, read_evaluations


class Found(NamedTuple):
  """The distinct failures of a run.

  Attributes:
    rows: image_id, question, answer, truth (or null); each (image, question) once.
    thresholds: name of an evaluation -> the share of its questions that is covered.
    total: how many distinct failures there are, asked again or not.
  """

  rows: pd.DataFrame
  thresholds: dict[str, float]
  total: int


def choose(workdir: epath.PathLike, sample: int, seed: int) -> Found:
  """Reads the evaluations and draws the sample, as many of each method and split.

  Args:
    workdir: of an evaluated run.
    sample: how many distinct failures; 0 is all. A question that failed by two methods
      is asked once, so that it may be fewer.
    seed: of the sample; a larger one holds the smaller.

  Raises:
    ValueError: there are no evaluations, or no failures, or fewer than one for each.
  """
  tables = {
    method if protocol == "during" else f"{method}_heldout": table
    for (protocol, method), table in read_evaluations(workdir).items()
  }
  if not tables:
    raise ValueError(f"{workdir} has no evaluations; launch.evaluate makes them")
  failed = {name: _failures(table) for name, table in tables.items()}
  sizes = {name: len(rows) for name, rows in failed.items()}
  if not sum(sizes.values()):
    raise ValueError(f"{workdir} holds no failure to confirm")
  if sample and sample < len(sizes):
    raise ValueError(f"a sample of {sample} has no failure for each of {list(sizes)}")
  wanted = allocate(sizes, sample) if sample else sizes
  parts, thresholds = [], {}
  for name, rows in failed.items():
    drawn = metrics.draws(rows, seed)
    order = np.argsort(drawn, kind="stable")[: wanted[name]]
    # Of a file without failures all is known.
    whole = wanted[name] == sizes[name]
    thresholds[name] = 1.0 if whole else float(drawn[order[-1]])
    parts.append(rows.iloc[order])
  key = ["image_id", "question"]
  every = pd.concat(failed.values()).drop_duplicates(key)
  chosen = pd.concat(parts).drop_duplicates(key).sort_values(key, kind="stable")
  return Found(chosen.reset_index(drop=True), thresholds, len(every))


def _failures(table: pd.DataFrame) -> pd.DataFrame:
  rows = table[metrics.flags(table)["failure"]]
  return rows[["image_id", "question", "answer", "truth"]].drop_duplicates(
    ["image_id", "question"]
  )
