"""What the reward sees of a question slot."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fmd_jax.types import Status


class Row(NamedTuple):
  """One question slot with its verdict; rows come in (image, response, slot) order.

  `valid` and `correct` mean something only when `status` is "ok", and `correct`
  only when `valid`.
  """

  image_id: str
  response_index: int
  slot: int
  status: Status
  question: str
  valid: bool | None
  correct: bool | None

  @property
  def parsed(self) -> bool:
    return self.status != "unparsed"

  @property
  def scored(self) -> bool:
    """An unparsed slot is scored: it counts as an invalid question."""
    return self.status != "unscored"

  @property
  def failure(self) -> bool:
    """V (1 - C): valid and answered wrongly."""
    return self.status == "ok" and bool(self.valid) and not self.correct


def check(rows: Iterable[tuple]) -> list[Row]:
  """Rows as `Row`, or a ValueError naming the first that has no verdict."""
  rows = [Row(*row) for row in rows]
  for row in rows:
    if row.status not in ("ok", "unparsed", "unscored"):
      raise ValueError(f"unknown status {row.status!r} in {row}")
    unjudged = row.valid is None or (row.valid and row.correct is None)
    if row.status == "ok" and unjudged:
      raise ValueError(f"a row with status 'ok' needs a verdict: {row}")
  return rows


def responses(rows: Sequence[Row]) -> list[list[int]]:
  """Indices of the rows of each response, in order.

  A response ends where image or response index changes, or where the slot does not
  grow: an image may come twice in one step.
  """
  out: list[list[int]] = []
  for i, row in enumerate(rows):
    last = rows[i - 1]
    same = i and row[:2] == last[:2] and row.slot > last.slot
    if same:
      out[-1].append(i)
    else:
      out.append([i])
  return out


def needs_embedding(rows: Iterable[tuple], terms: Sequence[str]) -> list[str]:
  """The questions whose embedding `score_step` and `Banks.append` will look up.

  Args:
    rows: the rows of a step.
    terms: the reward's terms; without "semantic" nothing is embedded.

  Returns:
    Distinct questions, in order of appearance: the failures (V = 1 and C = 0) and
    the parsed slots before them in the same response.
  """
  if "semantic" not in terms:
    return []
  rows = check(rows)
  wanted: dict[str, None] = {}
  for indices in responses(rows):
    earlier: list[str] = []
    for i in indices:
      if rows[i].parsed:
        earlier.append(rows[i].question)
      if rows[i].failure:
        wanted.update(dict.fromkeys(earlier))
  return list(wanted)
