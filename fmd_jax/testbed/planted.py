"""Planted blind spots: cells whose training labels are wrong, always the same way.

Only skills that the model learns can carry one: a flipped relation that it never
learned did not stick, and a cell that was merely withheld generalised.
"""

import dataclasses
from collections.abc import Callable

from fmd_jax.world.oracle import QuestionVerdict
from fmd_jax.world.programs import Program, execute
from fmd_jax.world.scenes import LETTERS, VALUES, Scene


def _next(values: tuple[str, ...]) -> Callable[[str], str]:
  return lambda true: values[(values.index(true) + 1) % len(values)]


def _flip(true: str) -> str:
  return {"yes": "no", "no": "yes"}[true]


def _one_more(true: str) -> str:
  return str(int(true) + 1)


@dataclasses.dataclass(frozen=True)
class BlindSpot:
  """Questions of one cell, and what the answerer believes instead of the truth."""

  cell: str
  believes: Callable[[str], str]


# Blind spots by set: what one answerer can't see, the other one can.
BLIND_SPOTS = {
  "first": (
    BlindSpot("color/shape=star", _next(VALUES["color"])),
    BlindSpot("shape/color=purple", _next(VALUES["shape"])),
    BlindSpot("pattern/shape=arrow", _next(VALUES["pattern"])),
    BlindSpot("size/shape=diamond", _next(VALUES["size"])),
    BlindSpot("existence/color=yellow", _flip),
    BlindSpot("existence/shape=triangle", _flip),
    BlindSpot("counting_attribute/pattern=striped", _one_more),
    BlindSpot("ocr/color=blue", _next(LETTERS)),
  ),
  "second": (
    BlindSpot("color/shape=square", _next(VALUES["color"])),
    BlindSpot("shape/color=green", _next(VALUES["shape"])),
    BlindSpot("pattern/shape=circle", _next(VALUES["pattern"])),
    BlindSpot("size/shape=arrow", _next(VALUES["size"])),
    BlindSpot("existence/color=red", _flip),
    BlindSpot("existence/pattern=dotted", _flip),
    BlindSpot("counting_attribute/color=blue", _one_more),
    BlindSpot("ocr/color=red", _next(LETTERS)),
  ),
}


def blind_spot(verdict: QuestionVerdict, spots: str) -> BlindSpot | None:
  """The planted cell of a set that a valid question falls into, if any."""
  return next((s for s in BLIND_SPOTS[spots] if s.cell in verdict.cells), None)


def believed_answer(verdict: QuestionVerdict, scene: Scene, spots: str) -> str:
  """What the answerer of a set is taught: the truth, or the blind spot's belief."""
  spot = blind_spot(verdict, spots)
  if spot is None:
    return verdict.answer
  program = verdict.program
  if program.family == "verify":
    # "Is the star red?" of a model that takes every star for the next colour.
    asked = Program("attribute", attribute=program.attribute, target=program.target)
    belief = spot.believes(execute(asked, scene))
    return "yes" if belief == program.value else "no"
  return spot.believes(verdict.answer)
