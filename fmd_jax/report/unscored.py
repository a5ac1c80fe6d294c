"""Why judges gave no verdict, in a few reasons."""

import re
from collections import Counter
from typing import NamedTuple

import pandas as pd

from fmd_jax.report.parts import text_of
from fmd_jax.report.reading import Run

_REASONS = 8  # of a judge; the browser has each question's own
# What a judge said follows its reason, quoted.
_SAID = re.compile(r": (?:'.*|\".*)", re.DOTALL)


class Reason(NamedTuple):
  """One reason of one judge, and how many questions it left without a verdict."""

  judge: str
  text: str
  count: int
  asked: int


def reasons(run: Run) -> list[Reason]:
  """Of the verifier, while training, and of the evaluator; the most frequent first."""
  asked = [rows for rows in run.asked.values() if len(rows)]
  return [
    *_of("Verifier", pd.concat(asked) if asked else pd.DataFrame()),
    *_of("Evaluator", run.evaluations),
  ]


def _of(judge: str, rows: pd.DataFrame) -> list[Reason]:
  if not len(rows):
    return []
  own = rows.loc[rows["status"] == "unscored", "rationale"]
  counts = Counter(_short(text_of(value)) for value in own)
  return [
    Reason(judge, text, count, len(rows))
    for text, count in counts.most_common(_REASONS)
  ]


def _short(rationale: str) -> str:
  """A rationale without what is different each time."""
  return re.sub(r"\d+", "N", _SAID.sub("", rationale).strip())[:160] or "no reason"
