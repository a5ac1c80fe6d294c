"""Trains a testbed answerer's failures away, with what a run found: SFT on the truth.

failures in the cells that the run shows to fail -> truth; beside them, so that nothing
else changes, questions that the model answered right, and the answers it gave
"""

import io
import pathlib
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd
import tokenizers
from absl import logging
from PIL import Image

from fmd_jax import metrics, models
from fmd_jax.evaluate import read_evaluations
from fmd_jax.models.config import from_folder
from fmd_jax.models.processor import Processor
from fmd_jax.testbed import census, dataset, language, recipe
from fmd_jax.world import png
from fmd_jax.world.oracle import judge_question

_LAYOUT = language.Layout(pictures=12, rows=1, length=144, texts=9)
_PICTURES = 50  # encoded at a time


class Lessons(NamedTuple):
  """What is learned: image_id -> (question, answer), failures and kept answers."""

  failures: dict[str, list[tuple[str, str]]]
  kept: dict[str, list[tuple[str, str]]]
  cells: list[str]


def choose(
  workdir: pathlib.Path,
  without: Collection[str],
  *,
  most: int,
  keep: float,
  seed: int,
) -> Lessons:
  """Draws the lessons of a run.

  Args:
    workdir: of an evaluated run on testbed pictures.
    without: image ids that are left out: those of the suite that will judge the repair.
    most: failures of a cell in one picture; a questioner that repeats itself would
      teach one cell only.
    keep: questions answered right for each failure.
    seed: of the draws.

  Raises:
    ValueError: the run has no cell that fails, or all its pictures are left out.
  """
  tables = read_evaluations(workdir)
  rows = pd.concat(tables.values(), ignore_index=True) if tables else pd.DataFrame()
  cells = metrics.failing_cells(rows)
  if not cells:
    raise ValueError(f"{workdir} shows no cell that fails: there is nothing to repair")
  failed = metrics.flags(rows)["failure"]
  rows = rows.assign(failed=failed)[metrics.flags(rows)["valid"]]
  rows = rows.drop_duplicates(["image_id", "question"])
  rows = rows[~rows["image_id"].isin(set(without))]
  if not len(rows):
    raise ValueError(
      f"all pictures of {workdir} are in the suite: make it with --share=0.5"
    )
  rows = rows.iloc[np.argsort(metrics.draws(rows, seed), kind="stable")]
  own = [next((c for c in cells if c in set(lies)), "") for lies in rows["cells"]]
  rows = rows.assign(cell=own)
  wrong = rows[rows["failed"] & (rows["cell"] != "")]
  wrong = wrong[wrong.groupby(["image_id", "cell"]).cumcount() < most]
  right = rows[~rows["failed"]]
  # Of each skill as many, as far as it goes: rare ones are forgotten first.
  place = right.groupby(right["skills"].str[0]).cumcount()
  right = right.iloc[np.argsort(place, kind="stable")]
  right = right.head(round(keep * len(wrong)))
  logging.info("failures by cell: %s", dict(Counter(wrong["cell"])))
  return Lessons(_by_image(wrong, "truth"), _by_image(right, "answer"), cells)


def _by_image(rows: pd.DataFrame, answer: str) -> dict[str, list[tuple[str, str]]]:
  return {
    image_id: list(zip(own["question"], own[answer]))
    for image_id, own in rows.groupby("image_id")
  }


def repair(
  folder: pathlib.Path,
  workdir: pathlib.Path,
  lessons: Lessons,
  out: pathlib.Path,
  *,
  steps: int,
  learning_rate: float,
  seed: int,
) -> None:
  """Fine-tunes an answerer, its vision tower left alone.

  Args:
    folder: of the answerer.
    workdir: of the run, for its pictures.
    lessons: of `choose`.
    out: folder of the repaired answerer.
    steps: of the fine-tuning, 12 pictures each.
    learning_rate: at its peak.
    seed: of the order.

  Raises:
    ValueError: a picture carries no scene: it is none of the testbed's.
  """
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  model, processor = models.load(folder), Processor.from_folder(folder)
  images, texts = [], []
  for image_id in sorted({*lessons.failures, *lessons.kept}):
    content = (workdir / "images" / f"{image_id}.png").read_bytes()
    scene = png.scene_of(content)
    if scene is None:
      raise ValueError(f"{image_id} carries no scene: only testbed pictures do")
    own = lessons.failures.get(image_id, []) + lessons.kept.get(image_id, [])
    known = [
      dataset.lesson(question, judge_question(question, scene), scene, answer)
      for question, answer in own
    ]
    with Image.open(io.BytesIO(content)) as picture:
      images.append(np.asarray(picture.convert("RGB")))
    texts.append([dataset.encode(tokenizer, known)])
  model = language.train(
    model,
    recipe.prompt_of(processor, from_folder(folder), "answerer"),
    np.concatenate(
      [
        census.encode(model, processor, images[at : at + _PICTURES])
        for at in range(0, len(images), _PICTURES)
      ]
    ),
    texts,
    _LAYOUT,
    steps=steps,
    peak=learning_rate,
    seed=seed,
  )
  models.save(model, out, source=folder)
