"""`measurements.jsonl`: one object a step, `family/name` -> number; and its curves."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from etils import epath

from fmd_jax.records.curves import Curves
from fmd_jax.records.files import is_remote, write_atomic

FILE = "measurements.jsonl"


def read_rows(workdir: epath.PathLike) -> list[dict[str, Any]]:
  """All rows as they were written; a half-written one is left out."""
  path, rows = epath.Path(workdir) / FILE, []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:  # the run was killed while it wrote this line
      continue
  return rows


def _number(value: Any) -> float | int | None:
  """A plain number of any scalar; None for one that is not finite."""
  value = value.item() if hasattr(value, "item") else value
  if isinstance(value, (bool, int)) or value is None:
    return value
  return float(value) if math.isfinite(value) else None


class Measurements:
  """Appends the measurements of one method; only one process of a run writes.

  Args:
    workdir: of the run.
    method: goes into every row.
    resume_step: the method's rows of this step and later, from an attempt that got
      further than its checkpoint, are dropped now, as are half-written lines. 0
      starts the method afresh.
  """

  def __init__(self, workdir: epath.PathLike, method: str, resume_step: int = 0):
    self._path = epath.Path(workdir) / FILE
    self._method = method
    rows = read_rows(workdir)
    kept = [r for r in rows if r["method"] != method or r["step"] < resume_step]
    self._text = "".join(json.dumps(row) + "\n" for row in kept)
    write_atomic(self._path, self._text.encode())
    self._curves = Curves(workdir, method, resume_step)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Adds the row of one step.

    Args:
      step: of the method.
      values: `family/name` -> scalar; one that is not finite is written as null.

    Raises:
      ValueError: for a key without its family.
    """
    for key in values:
      if "/" not in key:
        raise ValueError(f"the measurement {key!r} needs a family: 'family/{key}'")
    numbers = {key: _number(value) for key, value in values.items()}
    row = {"step": int(step), "method": self._method} | numbers
    line = json.dumps(row, allow_nan=False) + "\n"
    if is_remote(self._path):
      self._text += line
      write_atomic(self._path, self._text.encode())
    else:
      with self._path.open("a") as file:
        file.write(line)
    self._curves.write(int(step), numbers)


def totals(workdir: epath.PathLike, family: str) -> dict[str, dict[str, float]]:
  """Sums over the steps of a family's numbers: method -> name -> sum.

  What nobody measured is left out: it is not 0.
  """
  out: dict[str, dict[str, float]] = {}
  for row in read_rows(workdir):
    for key, value in row.items():
      if key.startswith(f"{family}/") and value is not None:
        own = out.setdefault(row["method"], {})
        name = key.partition("/")[2]
        own[name] = own.get(name, 0.0) + value
  return out


def read_measurements(workdir: epath.PathLike, method: str | None = None):
  """A data frame of all rows, or of one method's, with `step` and `method`."""
  rows = read_rows(workdir)
  df = pd.DataFrame(rows, columns=None if rows else ["step", "method"])
  return df if method is None else df[df["method"] == method].reset_index(drop=True)
