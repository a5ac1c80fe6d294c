"""The questions that the taxonomy is made of: evaluated rows of one or more runs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax.metrics import flags
from fmd_jax.records.reader import read_parquet

_HELDOUT = "_heldout"


def read(workdirs: Sequence[epath.Path]) -> pd.DataFrame:
  """All evaluated rows, in the order in which they were asked.

  Args:
    workdirs: of finished runs, each with evaluations.

  Returns:
    The columns of evaluations/*.parquet and: workdir (as given), place (of the row
    among those of its method and split), valid and failure as plain booleans.

  Raises:
    FileNotFoundError: a workdir has no evaluations.
  """
  parts = []
  for workdir in workdirs:
    paths = sorted((workdir / "evaluations").glob("*.parquet"))
    if not paths:
      raise FileNotFoundError(
        f"{workdir} holds no evaluations; make them by python -m launch.evaluate "
        f"--workdir {workdir}"
      )
    for path in paths:
      part = read_parquet(path)
      known = flags(part)
      part["valid"], part["failure"] = known["valid"], known["failure"]
      if "place" not in part:  # there it is a sample of all questions
        part["place"] = np.arange(len(part))
      part.insert(0, "workdir", str(workdir))
      parts.append(part)
  return pd.concat(parts, ignore_index=True)


def to_annotate(rows: pd.DataFrame, most: int) -> pd.DataFrame:
  """The distinct valid (workdir, image, question), each once.

  Args:
    rows: of `read`.
    most: of each workdir, method and split, evenly over the run; 0: all.

  Returns:
    workdir, image_id, question.
  """
  key = ["workdir", "image_id", "question"]
  valid = rows[rows["valid"]]
  if most:
    chosen = []
    for _, own in valid.groupby(["workdir", "method", "split"], sort=False):
      own = own.drop_duplicates(key)
      at = np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).astype(int))
      chosen.append(own.iloc[at])
    valid = pd.concat(chosen) if chosen else valid
  return valid.drop_duplicates(key)[key].reset_index(drop=True)
