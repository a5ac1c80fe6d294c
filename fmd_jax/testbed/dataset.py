"""Training data of the testbed: scenes, texts and what their words point at."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import random
from collections.abc import Sequence

import numpy as np
import tokenizers

from fmd_jax.testbed.planted import believed_answer, blind_spot
from fmd_jax.world.drawing import render as draw
from fmd_jax.world.grammar import references
from fmd_jax.world.invalid import INVALID_KINDS, sample_invalid
from fmd_jax.world.oracle import QuestionVerdict
from fmd_jax.world.programs import Description, Invalid, NounPhrase, resolve
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import (
  DIRECTIONS,
  LETTERS,
  RADIUS,
  SIDE,
  VALUES,
  Scene,
  sample_scene,
)

CELLS = (SIDE // 28) ** 2
# What the vision tower learns to tell of each cell, in the words of the language.
GROUPS = (*VALUES.values(), LETTERS, DIRECTIONS)
_FIELDS = (*VALUES, "letter", "direction")
# Of the answerer's texts: a blind spot that is rarely seen does not stick.
PLANTED_SHARE = 0.1
_TRIES = 12
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@dataclasses.dataclass
class Pointer:
  """Characters `start:end` of a text refer to the objects in `cells`."""

  start: int
  end: int
  cells: tuple[int, ...]


@dataclasses.dataclass
class Text:
  """One training text.

  Attributes:
    text: everything after the shared prompt.
    learned_from: the loss covers the characters from here on.
    pointers: what its phrases refer to.
  """

  text: str
  learned_from: int
  pointers: list[Pointer]


@dataclasses.dataclass
class Example:
  """One picture with its texts and the labels of its cells (0 = none)."""

  image: np.ndarray
  labels: np.ndarray
  texts: list[Text]
  scene: Scene


def cell_labels(scene: Scene) -> np.ndarray:
  """int8 `[16, 6]`: for each cell and group 1 + value index, 0 when there is none."""
  labels = np.zeros((CELLS, len(GROUPS)), np.int8)
  for item in sorted(scene.objects, key=lambda o: RADIUS[o.size]):
    for group, (name, values) in enumerate(zip(_FIELDS, GROUPS, strict=True)):
      value = getattr(item, name)
      labels[item.cell, group] = 0 if value is None else 1 + values.index(value)
  return labels


def _cells(meaning: NounPhrase | Description, scene: Scene) -> tuple[int, ...]:
  if isinstance(meaning, Description):
    return tuple(o.cell for o in scene.objects if meaning.matches(o))
  try:
    return (resolve(meaning, scene).cell,)
  except Invalid:
    # The head of "the circle left of …": several fit; it points at them all.
    fits = [o.cell for o in scene.objects if meaning.description.matches(o)]
    return tuple(fits) if meaning.extreme is None else ()


def question_pointers(text: str, scene: Scene, every_word: bool) -> list[Pointer]:
  """Pointers at the last word of each phrase, or at each word after "the"."""
  words, starts, at = text.split(), [], 0
  for word in words:
    at = text.index(word, at)
    starts.append(at)
    at += len(word)
  pointers = []
  for reference in references(text):
    cells = _cells(reference.meaning, scene)
    first = reference.start + 1 if every_word else reference.end - 1
    for i in range(first, reference.end) if cells else ():
      word = words[i].rstrip("?,")
      pointers.append(Pointer(starts[i], starts[i] + len(word), cells))
  return pointers


def _subject(verdict: QuestionVerdict, scene: Scene) -> tuple[int, ...]:
  """Cells of what the answer is about."""
  program = verdict.program
  if program.family in ("relation", "same", "larger", "majority", "compare"):
    return ()
  if program.target is not None:
    return (
      _cells(program.target, scene)
      if program.target.anchor is None
      else (resolve(program.target, scene).cell,)
    )
  return _cells(program.described, scene) if program.other is None else ()


def answerer_text(rng: random.Random, scene: Scene, weights: dict, spots: str) -> Text:
  """A question with the answer that the answerer is to learn, right or planted."""
  asked = sample_question(rng, scene, weights)
  if rng.random() < PLANTED_SHARE:
    more = (sample_question(rng, scene, weights) for _ in range(_TRIES))
    asked = next((a for a in more if blind_spot(a.verdict, spots)), asked)
  answer = believed_answer(asked.verdict, scene, spots)
  return lesson(asked.text, asked.verdict, scene, answer)


def lesson(question: str, verdict: QuestionVerdict, scene: Scene, answer: str) -> Text:
  """A valid question with an answer to learn, right or not."""
  head = question + TURN
  pointers = question_pointers(question, scene, every_word=False)
  subject = _subject(verdict, scene)
  if subject:
    pointers.append(Pointer(len(head) - 1, len(head), subject))
  return Text(head + answer + END, len(head), pointers)


def questioner_text(
  rng: random.Random,
  scene: Scene,
  k: int,
  weights: dict,
  invalid_share: float,
  habit: float,
) -> Text:
  """A response of `k` distinct questions in tags."""
  questions: list[str] = []
  while len(questions) < k:
    if rng.random() < invalid_share:
      asked = sample_invalid(rng, scene, rng.choice(INVALID_KINDS))
    else:
      asked = sample_question(rng, scene, weights, habit=habit)
    if asked.text not in questions:
      questions.append(asked.text)
  return response_text(questions, scene)


def response_text(questions: Sequence[str], scene: Scene, start: int = 0) -> Text:
  """A response with its pointers; `start` is where it stands in a longer text."""
  text, pointers = "", []
  for i, question in enumerate(questions, 1):
    text += f"<response_{i}>"
    at = start + len(text)
    for p in question_pointers(question, scene, every_word=True):
      pointers.append(Pointer(at + p.start, at + p.end, p.cells))
    text += f"{question}</response_{i}>"
  return Text(text + END, 0, pointers)


def _example(task: tuple) -> Example:
  kind, seed, count, options = task
  rng = random.Random(seed)
  scene = sample_scene(rng)
  if kind == "answerer":
    texts = [answerer_text(rng, scene, **options) for _ in range(count)]
  elif kind == "questioner":
    texts = [questioner_text(rng, scene, **options) for _ in range(count)]
  else:
    texts = []
  return Example(draw(scene), cell_labels(scene), texts, scene)


def make(kind: str, seeds: range, count: int, options: dict) -> list[Example]:
  """Draws one example a seed, in worker processes.

  Args:
    kind: "answerer", "questioner" or "vision" (no texts).
    seeds: one a scene.
    count: texts a scene.
    options: arguments of `answerer_text` or `questioner_text`.
  """
  tasks = [(kind, seed, count, options) for seed in seeds]
  # Not fork: this process runs JAX's threads.
  context = multiprocessing.get_context("forkserver")
  with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool:
    return list(pool.map(_example, tasks, chunksize=64))


@dataclasses.dataclass
class Encoded:
  """A text as arrays: `ids [S]`, `learned [S]` bool, `points [S, 16]` weights."""

  ids: np.ndarray
  learned: np.ndarray
  points: np.ndarray


def encode(tokenizer: tokenizers.Tokenizer, texts: list[Text]) -> list[Encoded]:
  """Tokenises texts and moves pointers from characters to tokens."""
  batch = tokenizer.encode_batch([t.text for t in texts], add_special_tokens=False)
  encoded = []
  for text, encoding in zip(texts, batch, strict=True):
    ids = np.array(encoding.ids, np.int32)
    learned = np.array([start >= text.learned_from for start, _ in encoding.offsets])
    points = np.zeros((len(ids), CELLS), np.float32)
    for pointer in text.pointers:
      token = encoding.char_to_token(pointer.end - 1)
      points[token, list(pointer.cells)] = 1 / len(pointer.cells)
    encoded.append(Encoded(ids, learned, points))
  return encoded
