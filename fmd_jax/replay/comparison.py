"""Two models' fresh answers to one suite: what changed."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fmd_jax import metrics
from fmd_jax.metrics.paired import ALL
from fmd_jax.replay.suite import Suite

KINDS = {"failure": "failures of the run", "guard": "answered right in the run"}


class Replay(NamedTuple):
  """What a replay found.

  Attributes:
    table: of `metrics.changes`, all questions first.
    questions: those of the suite with before and after (the shares of wrong answers),
      now (an answer of the new model, a wrong one where there is any), compared.
    unscored: the share of the new model's answers that have no verdict.
  """

  table: list[dict[str, Any]]
  questions: pd.DataFrame
  unscored: float

  def groups(self) -> list[dict[str, Any]]:
    """The rows of cells and skills."""
    return [row for row in self.table if row["name"] not in (ALL, *KINDS.values())]

  def regressions(self) -> list[str]:
    """The groups that fail more than before, at 5 % over all of them."""
    rows = [row for row in self.table if row["verdict"] == "newly failing"]
    return [row["name"] for row in rows]


def compare(suite: Suite, asks: pd.DataFrame, seed: int = 0) -> Replay:
  """Compares fresh answers with the suite's fresh answers, question by question.

  A question of which either model has no scored answer is left out.

  Args:
    suite: with the first model's answers.
    asks: of the second, as `ask` gives them.
    seed: of flips and bootstrap.

  Raises:
    ValueError: nothing can be compared.
  """
  questions = suite.questions.copy()
  for name, own in (("before", suite.asks), ("after", asks)):
    shares = own.dropna(subset="wrong").groupby("id")["wrong"].mean()
    questions[name] = questions["id"].map(shares).astype(float)
  # A wrong answer shows what is wrong.
  shown = asks.sort_values("wrong", ascending=False, kind="stable", na_position="last")
  shown = shown.drop_duplicates("id").set_index("id")["answer"]
  questions["now"] = questions["id"].map(shown)
  questions["compared"] = questions[["before", "after"]].notna().all(axis=1)
  rows = questions[questions["compared"]]
  if not len(rows):
    raise ValueError("no question has a scored answer of both models")
  table = metrics.changes(
    rows["before"].to_numpy(),
    rows["after"].to_numpy(),
    rows["image_id"].tolist(),
    _groups(rows),
    seed=seed,
  )
  return Replay(table, questions, float(asks["wrong"].isna().mean()))


def _groups(rows: pd.DataFrame) -> dict[str, np.ndarray]:
  """The groups of failures and guards by name, and the two kinds."""
  names = sorted({name for own in rows["groups"] for name in own})
  kinds = {text: (rows["kind"] == kind).to_numpy() for kind, text in KINDS.items()}
  own = {
    name: np.array([name in groups for groups in rows["groups"]]) for name in names
  }
  return kinds | own
