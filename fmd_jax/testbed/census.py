"""The census: how often an answerer fails in each cell, on scenes of its own.

It is the truth that discovered cells are held against (`fmd_jax/metrics/planted.py`).
"""

import collections
import functools
import itertools
import json
import pathlib
import random
from collections.abc import Collection, Iterable
from typing import NamedTuple

import jax
import numpy as np
import tokenizers
from absl import logging
from flax import nnx

from fmd_jax import models
from fmd_jax.inference.engines import folders
from fmd_jax.models.processor import Processor
from fmd_jax.testbed import dataset, recipe
from fmd_jax.world import drawing
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import sample_scene

# The rarest cell comes up in 37 of 1000 scenes.
SCENES = 10_000
ENOUGH = 300  # questions of a cell
_PER_SCENE = 18
# One a scene. The recipe's seeds are below 3 million, the card's at 9 million, and the
# pictures of a run are seeded by text.
_FIRST_SEED = 20_000_000
_PICTURES = 50  # encoded at a time


class Case(NamedTuple):
  """A valid question, its true answer and its cells."""

  question: str
  answer: str
  cells: tuple[str, ...]


def census(
  folder: pathlib.Path, planted: Collection[str], scenes: int = SCENES
) -> dict:
  """Asks an answerer in every cell that the world's own questions reach.

  All skills are asked alike and all answers are greedy, so that a folder has one
  census. Takes some minutes on two cores.

  Args:
    folder: the answerer's checkpoint.
    planted: the cells with a planted blind spot.
    scenes: each is asked about up to 18 times.

  Returns:
    "answerer", name@revision as records keep it once the folder is among the assets;
    "cells", cell -> n, failures, rate, planted. A rare cell has the n it has.
  """
  model, processor = models.load(folder), Processor.from_folder(folder)
  cases, features = [], []
  for start in range(0, scenes, _PICTURES):
    seeds = range(start, min(start + _PICTURES, scenes))
    drawn = [_draw(_FIRST_SEED + seed) for seed in seeds]
    features.append(encode(model, processor, [image for image, _ in drawn]))
    cases += [own for _, own in drawn]
  chain = itertools.chain.from_iterable
  right = _answer(model, processor, folder, np.concatenate(features), cases)
  return {
    "answerer": f"testbed/{folder.name}@{folders.revision(str(folder))}",
    "cells": tally(chain(cases), chain(right), planted),
  }


def tally(
  cases: Iterable[Case], right: Iterable[bool | None], planted: Collection[str]
) -> dict[str, dict]:
  """cell -> n, failures, rate, planted; sorted by name.

  Args:
    cases: what was asked.
    right: whether the answer was the true one; None where there is no answer.
    planted: see `census`.
  """
  answers = collections.defaultdict(list)
  for case, hit in zip(cases, right, strict=True):
    for cell in case.cells if hit is not None else ():
      answers[cell].append(hit)
  cells = {}
  for cell, hits in sorted(answers.items()):
    n, failures = len(hits), hits.count(False)
    cells[cell] = {"n": n, "failures": failures, "rate": failures / n}
    cells[cell]["planted"] = cell in planted
  return cells


def write(
  folder: pathlib.Path, planted: Collection[str], scenes: int = SCENES
) -> pathlib.Path:
  """Writes the census beside the folder: `answerer/` -> `answerer.census.json`."""
  found = census(folder, planted, scenes)
  short = [cell for cell, own in found["cells"].items() if own["n"] < ENOUGH]
  missing = sorted(set(planted) - found["cells"].keys())
  if short or missing:
    logging.warning(
      "%d cells with fewer than %d questions; planted, but never asked about: %s",
      len(short), ENOUGH, missing,
    )  # fmt: skip
  path = folder.with_name(f"{folder.name}.census.json")
  path.write_text(json.dumps(found, indent=1) + "\n")
  return path


def _draw(seed: int) -> tuple[np.ndarray, list[Case]]:
  """A picture and distinct questions about it."""
  rng = random.Random(seed)
  scene = sample_scene(rng)
  asked = {}
  for _ in range(_PER_SCENE):
    question = sample_question(rng, scene)
    known = question.verdict
    asked[question.text] = Case(question.text, known.answer, known.cells)
  return drawing.render(scene), list(asked.values())


def encode(model, processor: Processor, images: list[np.ndarray]) -> np.ndarray:
  """Visual tokens [I, 16, F] of I pictures, by the frozen tower."""
  grids = np.tile([[1, 8, 8]], (len(images), 1))
  plan = models.vision_plan(grids, model.config.vision)
  graphdef, state = nnx.split(model)
  out = _visual_tokens(graphdef, state, processor.images(images)[0], plan)
  return np.asarray(out).reshape(len(images), dataset.CELLS, -1)


@functools.partial(jax.jit, static_argnums=0)
def _visual_tokens(graphdef, state, pixels, plan) -> jax.Array:
  return nnx.merge(graphdef, state).encode_images(pixels, plan)


def _answer(model, processor, folder, features, cases) -> list:
  """Whether the greedy answers are the true ones, by scene."""
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  texts = []
  for own in cases:
    heads = [case.question + dataset.TURN for case in own]
    whole = [
      dataset.Text(head + case.answer + dataset.END, len(head), [])
      for head, case in zip(heads, own, strict=True)
    ]
    texts.append(dataset.encode(tokenizer, whole))
  prompt = recipe.prompt_of(processor, model.config, "answerer")
  return recipe.exact_matches(model, prompt, features, texts)
