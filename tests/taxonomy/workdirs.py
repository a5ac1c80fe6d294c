"""Small finished runs of the embedded world, without a run: for the tests."""

import json
import random

import numpy as np
import pandas as pd

from fmd_jax.types import CRITERIA
from fmd_jax.world import drawing, oracle, png, questions, scenes


def make(folder, *, images=4, per_image=6, methods=("zero_shot", "grpo"), seed=0):
  """Evaluations and pictures of valid questions, a few of them asked twice.

  Every third question is a failure; the last of an image is invalid.
  """
  generator = random.Random(seed)
  (folder / "images").mkdir(parents=True)
  (folder / "evaluations").mkdir()
  (folder / "config.json").write_text(json.dumps({"seed": 0}))
  pictures = {}
  for i in range(images):
    scene = scenes.sample_scene(generator)
    pictures[f"image-{i}"] = scene
    content = png.encode(drawing.render(scene), scene)
    (folder / "images" / f"image-{i}.png").write_bytes(content)
  for method in methods:
    rows = []
    for step, (image_id, scene) in enumerate(pictures.items()):
      for slot in range(per_image):
        text = _question(generator, scene)
        rows.append(_row(method, step, image_id, slot, text, scene, len(rows)))
      rows.append({**rows[-1], "slot": per_image})
      bad = _row(method, step, image_id, per_image + 1, "Which?", scene, 1)
      rows.append(bad)
    table = pd.DataFrame(rows)
    for column in ("valid", "correct", *CRITERIA):
      table[column] = table[column].astype("boolean")
    table.to_parquet(folder / "evaluations" / f"{method}.parquet")
  return folder


def _question(generator, scene):
  return questions.sample_question(generator, scene).text


def _row(method, step, image_id, slot, text, scene, place):
  known = oracle.judge_question(text, scene)
  return {
    "method": method, "split": "train", "step": step, "image_id": image_id,
    "response_index": 0, "slot": slot, "question": text,
    "prefix": " ".join(text.lower().split()[:2]), "answer": "red", "status": "ok",
    **dict.fromkeys(CRITERIA, known.valid), "valid": known.valid,
    "correct": place % 3 != 0, "rationale": "",
    "truth": known.answer, "skills": list(known.skills) or None,
    "cells": list(known.cells) or None,
  }  # fmt: skip


def embedder(width=64):
  """Vectors of hashed words: texts that share words are near."""

  class Words:
    name, revision = "words", ""

    def embed(self, texts):
      out = np.zeros((len(texts), width), np.float32)
      for row, text in enumerate(texts):
        for word in text.split():
          generator = np.random.default_rng(list(word.encode()))
          out[row] += generator.normal(size=width)
      return out / np.linalg.norm(out, axis=1, keepdims=True)

  return Words()
