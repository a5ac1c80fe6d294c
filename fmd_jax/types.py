"""The nouns of the project: frozen dataclasses that every floor may import."""

import dataclasses
import hashlib
from typing import Any, Literal

Status = Literal["ok", "unparsed", "unscored"]
Split = Literal["train", "heldout"]
CRITERIA = ("grammatical", "atomic", "grounded", "objective")


@dataclasses.dataclass(frozen=True)
class ImageExample:
  """One image, as every model sees it before its own resizing.

  Attributes:
    image_id: filename-safe and unique within a source.
    png: the canonical pixels, RGB, encoded as PNG. A testbed image carries its
      scene in the text chunk `fmd_scene`, so that an oracle needs nothing else.
    media: what the bytes are; only "image" today.
  """

  image_id: str
  png: bytes
  media: str = "image"

  @property
  def sha256(self) -> str:
    return hashlib.sha256(self.png).hexdigest()


@dataclasses.dataclass(frozen=True)
class Question:
  """One question slot of one response.

  Attributes:
    text: the question without its tags and control tokens; "" when unparsed.
    status: "ok", or "unparsed" when the slot was missing from the response.
    turn: the turn of a dialogue it belongs to; only 0 today.
  """

  image_id: str
  response_index: int
  slot: int
  text: str
  status: Status = "ok"
  turn: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the answerer said; `status` is "unscored" when it failed to answer."""

  text: str
  model: str
  status: Status = "ok"
  error: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A judge's verdict on one question and its answer.

  With status "unscored" (the judge failed, or left its grammar) the booleans
  mean nothing and are None: an unscored verdict is never "wrong" and never 0.
  """

  status: Status
  grammatical: bool | None = None
  atomic: bool | None = None
  grounded: bool | None = None
  objective: bool | None = None
  correct: bool | None = None
  rationale: str = ""
  model: str = ""

  @property
  def valid(self) -> bool | None:
    if self.status != "ok":
      return None
    return all(getattr(self, name) for name in CRITERIA)


@dataclasses.dataclass(frozen=True)
class Record:
  """One question slot, as a row of `records/` (DESIGN: a run writes these)."""

  run_id: str
  method: str
  split: Split
  step: int
  image_id: str
  group_id: str
  response_index: int
  slot: int
  status: Status
  question: str
  prefix: str
  answer: str | None
  grammatical: bool | None
  atomic: bool | None
  grounded: bool | None
  objective: bool | None
  valid: bool | None
  correct: bool | None
  rationale: str
  delta_emb: float | None
  delta_ifreq: float | None
  reward: float | None
  response_reward: float | None
  advantage: float | None
  questioner_step: int
  answerer: str
  verifier: str
  wall_time: float
  questioner_prompt: str | None = None
  answerer_prompt: str | None = None
  verifier_prompt: str | None = None

  def asdict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)
