"""Made-up studies on the testbed's truth: a judge errs, people label some of it.

The questions are the world's own, asked about its scenes; whether the answer to one is
wrong is drawn at the failure rate that the census of the shipped answerer gives its
cells. So the true FDR is known, and a study is: images drawn with replacement, all
their questions judged with errors, some of them labelled by people.
"""

import functools
import json
import pathlib
import random
from typing import NamedTuple

import numpy as np
import pandas as pd

import fmd_jax
from fmd_jax import metrics, trust
from fmd_jax.world import oracle, questions, scenes
from fmd_jax.world.skills import EASY_SKILLS, SKILLS

IMAGES, EACH = 250, 16
INVALID = 0.12
CENSUS = pathlib.Path(fmd_jax.__file__).parent / "testbed/assets/answerer.census.json"
# A questioner that asks about everything, one that asks for easy things, and one that
# has found out that two steps are hard.
MIXES = {
  "even": dict.fromkeys(SKILLS, 1.0),
  "easy": {skill: 1.0 if skill in EASY_SKILLS else 0.02 for skill in SKILLS},
  "hard": {skill: 1.0 if skill == "two_hop" else 0.02 for skill in SKILLS},
}
FACTORS = {"easy": 0.5, "one": 1.0, "several": 2.0, "none": 1.0}


class Population(NamedTuple):
  """[IMAGES · EACH] questions, image by image."""

  valid: np.ndarray
  wrong: np.ndarray
  band: np.ndarray

  @property
  def fdr(self) -> float:
    return float(self.wrong[self.valid].mean())


@functools.cache
def population(mix: str) -> Population:
  rng = random.Random(f"studies {mix}")
  cells = json.loads(CENSUS.read_text())["cells"]
  valid, wrong, skills = [], [], []
  for _ in range(IMAGES):
    scene = scenes.sample_scene(rng)
    for _ in range(EACH):
      text = questions.sample_question(rng, scene, MIXES[mix]).text
      known = oracle.judge_question(text, scene)
      rates = [cells[cell]["rate"] for cell in known.cells if cell in cells]
      valid.append(rng.random() > INVALID)
      wrong.append(rng.random() < max(rates, default=0.3))
      skills.append(list(known.skills))
  band = metrics.difficulty(pd.DataFrame({"skills": skills, "truth": "x"}))
  return Population(np.array(valid), np.array(wrong), band)


class Study(NamedTuple):
  """What was judged, and what people said of some of it."""

  judged: pd.DataFrame
  labelled: pd.DataFrame


def draw_study(generator, mixes, se, sp, labels, by_difficulty=False) -> list[Study]:
  """One study of each mix; `labels` is how many of its questions people label.

  The error is that of `engines.oracle.Noise`, drawn by chance instead of by hash.
  """
  out = []
  for mix in mixes:
    own = population(mix)
    images = generator.integers(0, IMAGES, IMAGES)
    rows = (images[:, None] * EACH + np.arange(EACH)).ravel()
    valid, wrong, band = own.valid[rows], own.wrong[rows], own.band[rows]
    factor = np.ones(len(rows))
    if by_difficulty:
      factor = np.array([FACTORS[name] for name in band])
    factor = np.where(valid, factor, 1.0)
    u, w = generator.random((2, len(rows)))
    error = np.minimum(0.5, factor * (1 - np.where(valid, sp, se)))
    called_valid = valid ^ (u < error)
    error = np.minimum(0.5, factor * (1 - np.where(wrong, se, sp)))
    called_wrong = wrong ^ (w < np.where(valid, error, 0.5))
    judged = pd.DataFrame(
      {
        "image_id": np.repeat(np.arange(IMAGES), EACH),
        "status": "ok",
        "valid": called_valid,
        "correct": ~called_wrong,
        "band": band,
        "method": mix,
        "judge": "judge",
        "true_valid": valid,
        "true_correct": np.where(valid, ~wrong, None),
      }
    )
    some = generator.choice(len(rows), labels, replace=False)
    out.append(Study(judged, judged.iloc[some]))
  return out


def labels_of(studies: list[Study]) -> dict:
  """calibration.json of all labels of some studies, for the one judge."""
  items = pd.concat([study.labelled for study in studies])
  return trust.calibrate(items)["judges"]["judge"]


def delta_interval(judged: pd.DataFrame, known: dict) -> tuple[float, float]:
  """The corrected FDR's by the delta method, independent binomials, cut to [0, 1]."""
  columns = metrics.flags(judged)
  n, valid, wrong = (columns[x].sum() for x in ("scored", "valid", "failure"))
  parts = [
    known[part][name]
    for part, name in (
      ("valid", "sensitivity"),
      ("valid", "specificity"),
      ("correct", "sensitivity"),
      ("correct", "specificity"),
      ("correct", "wrong_when_invalid"),
    )
  ]
  # Where no invalid question was called valid, nothing is known of its answer.
  parts = [p if p["n"] else {"value": 0.5, "n": 1} for p in parts]
  at = [valid / n, wrong / valid, *(p["value"] for p in parts)]
  sizes = [n, valid, *(p["n"] for p in parts)]

  def fdr(v, w, se, sp, se2, sp2, k):
    truly = (v + se - 1) / (se + sp - 1) * sp / v
    return (w - (1 - truly) * k - truly * (1 - sp2)) / (truly * (se2 + sp2 - 1))

  variance = 0.0
  for place, (value, size) in enumerate(zip(at, sizes)):
    moved = list(at)
    moved[place] += 1e-6
    slope = (fdr(*moved) - fdr(*at)) / 1e-6
    variance += slope**2 * value * (1 - value) / size
  half = 1.959964 * variance**0.5
  return max(0.0, fdr(*at) - half), min(1.0, fdr(*at) + half)
