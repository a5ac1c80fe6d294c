"""What `launch.confirm` found of each failure: confirmed.parquet and confirmed.json."""

import json
from typing import Any, NamedTuple

import pandas as pd
from etils import epath

from fmd_jax.records.files import write_atomic
from fmd_jax.records.reader import read_parquet
from fmd_jax.records.writer import write_parquet

_TABLE, _STATEMENT = "confirmed.parquet", "confirmed.json"


class Confirmed(NamedTuple):
  """The failures of a run that were asked again.

  Attributes:
    table: a row for each distinct (image_id, question) that was asked again:
      answer (the wrong one of the run), truth (the answer to compare with, or null),
      tier (1 to 5, the highest that was reached: `metrics.TIERS`), open (whether the
      check that it stopped at is unscored, so that it may belong higher); again,
      paraphrase, second_judge, needs_image, unambiguous (each "passed", "failed",
      "unscored" or "not reached"); again_wrong of again_asked fresh answers were wrong,
      the greedy one first; paraphrased (the question in other words) and
      paraphrase_answer; why (what was found, a line a check).
    statement: settings (models, prompts and rule), sample, seed, thresholds (name of an
      evaluation, as "grpo_heldout" -> share of its questions that the sample covers).
  """

  table: pd.DataFrame
  statement: dict[str, Any]


def read_confirmed(workdir: epath.PathLike) -> Confirmed | None:
  """None where no failure was asked again."""
  folder = epath.Path(workdir)
  if not (folder / _TABLE).is_file() or not (folder / _STATEMENT).is_file():
    return None
  statement = json.loads((folder / _STATEMENT).read_text())
  return Confirmed(read_parquet(folder / _TABLE), statement)


def write_confirmed(workdir: epath.PathLike, confirmed: Confirmed) -> None:
  """Writes both files, each whole or not at all."""
  folder = epath.Path(workdir)
  write_parquet(folder / _TABLE, confirmed.table)
  text = json.dumps(confirmed.statement, indent=2) + "\n"
  write_atomic(folder / _STATEMENT, text.encode())
