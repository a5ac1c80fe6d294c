"""What a repair learns from, and that it leaves an answerer that loads."""

import pathlib
import random

import pandas as pd
import pytest

from fmd_jax import inference, models, records
from fmd_jax.records.writer import write_parquet
from fmd_jax.testbed import repair
from fmd_jax.types import ImageExample
from fmd_jax.world import drawing, png
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import sample_scene

CELL = "color/shape=star"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """30 pictures; every question about a star's colour failed, and a few others."""
  folder = tmp_path_factory.mktemp("run")
  rng, rows = random.Random(0), []
  for i in range(30):
    scene = sample_scene(rng)
    image = ImageExample(f"p{i:02}", png.encode(drawing.render(scene), scene))
    records.write_image(folder, image)
    for _ in range(40):
      asked = sample_question(rng, scene, {"color": 3.0, "shape": 1.0, "ocr": 1.0})
      cells = list(asked.verdict.cells)
      failed = CELL in cells or rng.random() < 0.05
      rows.append(
        {
          "image_id": image.image_id, "question": asked.text, "status": "ok",
          "answer": "wrong" if failed else asked.verdict.answer, "valid": True,
          "correct": not failed, "truth": asked.verdict.answer, "place": len(rows),
          "skills": list(asked.verdict.skills), "cells": cells, "prefix": "",
        }
      )  # fmt: skip
  table = pd.DataFrame(rows).astype({"valid": "boolean", "correct": "boolean"})
  write_parquet(folder / "evaluations" / "zero_shot.parquet", table)
  return folder, table.drop_duplicates(["image_id", "question"])


def test_it_learns_truths_of_failing_cells_and_keeps_what_was_right(workdir):
  folder, table = workdir
  lessons = repair.choose(folder, {"p00", "p01"}, most=2, keep=3.0, seed=0)
  assert lessons.cells == [CELL]
  known = {(r.image_id, r.question): r for r in table.itertuples()}
  for part, failed in ((lessons.failures, True), (lessons.kept, False)):
    assert not {"p00", "p01"} & set(part)
    for image_id, own in part.items():
      for question, answer in own:
        row = known[image_id, question]
        assert (not row.correct) == failed and answer == row.truth
        assert CELL in row.cells or not failed
  numbers = [sum(map(len, part.values())) for part in lessons[:2]]
  assert max(map(len, lessons.failures.values())) == 2
  assert numbers[1] == 3 * numbers[0]
  with pytest.raises(ValueError, match="--share"):
    repair.choose(folder, set(table["image_id"]), most=2, keep=1.0, seed=0)


@pytest.mark.slow
def test_a_repaired_answerer_is_a_checkpoint_and_another_one(workdir, tmp_path):
  folder, _ = workdir
  lessons = repair.choose(folder, set(), most=2, keep=1.0, seed=0)
  original = inference.checkpoint_folder("hf://testbed/answerer_small")
  out = tmp_path / "repaired"
  repair.repair(
    pathlib.Path(original), folder, lessons, out, steps=2, learning_rate=1e-4, seed=0
  )
  before, after = models.load(original), models.load(out)
  weight = [m.language_model.layers.mlp.down_proj.kernel[...] for m in (before, after)]
  assert abs(weight[0] - weight[1]).max() > 0
