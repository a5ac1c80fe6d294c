"""Worked examples and the exercise, of the embedded world, where truth is known."""

import functools
import io
import random
from typing import NamedTuple

from PIL import Image

from fmd_jax.trust.study.wording import CRITERIA
from fmd_jax.world.drawing import render
from fmd_jax.world.grammar import parse
from fmd_jax.world.invalid import sample_invalid
from fmd_jax.world.oracle import judge_answer
from fmd_jax.world.questions import AskedQuestion, sample_question
from fmd_jax.world.scenes import VALUES, Scene, sample_scene

ROUNDS = 4  # of different questions, the first of them the worked examples
MISTAKES = 1  # in a round, with which it is passed
_SIDE = 336  # pixels of a picture
_SEED = 20
# Kinds in the order of the worked examples; a round of the exercise is shuffled.
_KINDS = ("right", "wrong", "jumbled", "compound", "absent", "subjective", "ambiguous")
_EASY = ("color", "shape", "counting_all", "existence")


class Example(NamedTuple):
  """A question with its truth.

  Attributes:
    name: of its picture too; it tells nothing.
    criterion: the rule that an invalid question breaks; "" of a valid one.
    correct: whether the answer is; None for an invalid question.
    why: the explanation.
    picture: JPEG.
  """

  name: str
  question: str
  answer: str
  criterion: str
  correct: bool | None
  why: str
  picture: bytes

  @property
  def valid(self) -> bool:
    return not self.criterion

  @property
  def title(self) -> str:
    if self.criterion:
      return f"Invalid. {CRITERIA[self.criterion].title}"
    return "Valid, and the answer is " + ("correct" if self.correct else "incorrect")


@functools.cache
def examples() -> list[Example]:
  """The worked examples, one of each kind."""
  return _round(0)


@functools.cache
def exercise(round_: int) -> list[Example]:
  """The questions of a round of the exercise; after the last comes the first again."""
  made = _round(1 + round_ % (ROUNDS - 1))
  random.Random(round_).shuffle(made)
  return made


def _round(place: int) -> list[Example]:
  rng = random.Random(_SEED + place)
  return [_make(rng, kind, f"{place}{n}") for n, kind in enumerate(_KINDS)]


def _make(rng: random.Random, kind: str, name: str) -> Example:
  while True:
    scene = sample_scene(rng)
    # Few things, so that a look is enough.
    if 3 <= len(scene.objects) <= 4:
      return _ask(rng, scene, kind, name)


def _ask(rng: random.Random, scene: Scene, kind: str, name: str) -> Example:
  if kind in ("right", "wrong", "jumbled"):
    asked = _valid(rng, scene)
    truth = asked.verdict.answer
    if kind == "jumbled":
      text = _jumbled(rng, asked.text)
      return _example(scene, name, text, truth, "grammatical", None, _WHY[kind])
    answer = truth if kind == "right" else _other(rng, asked)
    why = f"The question is clear, the picture tells, and the one answer is “{truth}”. "
    why += (
      "The model says so." if kind == "right" else f"“{answer}” is not what is there."
    )
    return _example(scene, name, asked.text, answer, "", kind == "right", why)
  asked = sample_invalid(rng, scene, kind, lead_share=0.0)
  criterion = next(c for c in CRITERIA if not getattr(asked.verdict, c))
  about = [name for name in VALUES if name in asked.text]
  answer = rng.choice(VALUES[about[0]]) if about else "yes"
  return _example(scene, name, asked.text, answer, criterion, None, _WHY[kind])


_WHY = {
  "jumbled": "The words are out of order: nobody would ask this.",
  "compound": "These are two questions. One of them could be answered rightly and the "
  "other wrongly.",
  "absent": "No such thing is in the picture, so no answer can be right.",
  "subjective": "This is a matter of opinion: people may answer it differently.",
  "ambiguous": "This fits more than one thing in the picture, so it has no single "
  "right answer.",
}


def _valid(rng: random.Random, scene: Scene) -> AskedQuestion:
  weights = dict.fromkeys(_EASY, 1.0)
  return sample_question(rng, scene, weights, lead_share=0.0, habit=1.0)


def _jumbled(rng: random.Random, text: str) -> str:
  words = text[:-1].split()
  while True:
    rng.shuffle(words)
    found = " ".join(words) + "?"
    if parse(found) is None and words[0][0].islower():
      return found


def _other(rng: random.Random, asked: AskedQuestion) -> str:
  """A wrong answer of the same kind."""
  truth = asked.verdict.answer
  if truth.isdigit():
    return str(int(truth) + 1)
  if truth in ("yes", "no"):
    return "no" if truth == "yes" else "yes"
  options = next(values for values in VALUES.values() if truth in values)
  wrong = [value for value in options if not judge_answer(asked.verdict, value)]
  return rng.choice(wrong)


def _example(scene, name, question, answer, criterion, correct, why) -> Example:
  # Drawn anew without its scene, which is the answer to everything.
  image = Image.fromarray(render(scene)).resize(
    (_SIDE, _SIDE), Image.Resampling.LANCZOS
  )
  buffer = io.BytesIO()
  image.save(buffer, "JPEG", quality=90, subsampling=0)
  return Example(name, question, answer, criterion, correct, why, buffer.getvalue())
