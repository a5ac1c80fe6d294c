"""The census against the answerer asked one by one, and its way into metrics.json."""

import collections
import json
import random

import numpy as np
import pandas as pd
import pytest

from fmd_jax import answerer, evaluate, inference, metrics, records
from fmd_jax.testbed import census
from fmd_jax.testbed.card import ASSETS
from fmd_jax.types import ImageExample, Question
from fmd_jax.world import drawing, png
from fmd_jax.world.oracle import judge_answer, judge_question
from fmd_jax.world.scenes import sample_scene

SCENES = 4
PLANTED = ("color/shape=star", "existence/shape=ghost")


@pytest.fixture(
  scope="module", params=sorted(path.name for path in ASSETS.glob("answerer*/"))
)
def written(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("assets") / request.param
  folder.symlink_to(ASSETS / request.param)
  return census.write(folder, PLANTED, SCENES)


def test_the_census_is_what_the_answerer_says(written):
  """Through pictures, prompts and decoding of its own: torch, one question a row.

  Wrong with another prompt or picture, with answers taught instead of true ones, with
  the planted cells' questions left out of the others.
  """
  name = written.name.removesuffix(".census.json")
  engine = inference.resolve(f"hf://testbed/{name}?threads=1")
  counts = collections.defaultdict(lambda: [0, 0])
  for i in range(SCENES):
    seed = census._FIRST_SEED + i
    scene = sample_scene(random.Random(seed))
    image = ImageExample(str(i), png.encode(drawing.render(scene), scene))
    asked = [case.question for case in census._draw(seed)[1]]
    questions = [Question(str(i), 0, s, text, "ok") for s, text in enumerate(asked)]
    said = answerer.ask(engine, [(image, question) for question in questions])
    for question, answer in zip(questions, said, strict=True):
      known = judge_question(question.text, scene)
      assert known.valid
      for cell in known.cells:
        counts[cell][0] += 1
        counts[cell][1] += not judge_answer(known, answer.text)
  found = json.loads(written.read_text())
  assert found["answerer"] == inference.identity(engine)
  assert list(found["cells"]) == sorted(found["cells"])
  got = {cell: [own["n"], own["failures"]] for cell, own in found["cells"].items()}
  assert got == counts
  assert 0 < sum(own[1] for own in got.values()) < sum(own[0] for own in got.values())


def test_a_question_about_a_scene_is_asked_once():
  """18 draws repeat themselves now and then: counted twice, n would be too large."""
  drawn = [census._draw(census._FIRST_SEED + i)[1] for i in range(60)]
  texts = [[case.question for case in own] for own in drawn]
  assert all(len(set(own)) == len(own) for own in texts)
  assert 15 <= min(map(len, texts)) < max(map(len, texts)) == 18


def test_tally_by_hand():
  """An answer that is not there is neither right nor wrong: n = 3 with it."""
  cells = [("a/b=c",), ("a/b=c", "a/b=d"), ("a/b=c",), ()]
  cases = [census.Case("", "", own) for own in cells]
  assert census.tally(cases, [True, False, None, False], ["a/b=d", "a/b=e"]) == {
    "a/b=c": {"n": 2, "failures": 1, "rate": 0.5, "planted": False},
    "a/b=d": {"n": 1, "failures": 1, "rate": 1.0, "planted": True},
  }


# ---- metrics.json ---------------------------------------------------------------


class Letters:
  """An embedder for a test: how often each of four letters occurs."""

  name, revision = "letters", "1"

  def embed(self, texts):
    return np.array([[1 + text.count(c) for c in "abcd"] for text in texts], float)


def rows(method, failures, cells):
  n = 40
  return pd.DataFrame(
    {
      "method": method,
      "image_id": [f"i{i}" for i in range(n)],
      "question": "What is it?",
      "answer": "a thing",
      "evaluator": "oracle@1",
      "status": "ok",
      "valid": True,
      "correct": [i >= failures for i in range(n)],
      "skills": [["a"]] * n,
      "cells": [cells] * n,
    }
  )


def measured(folder, answerer, cells):
  """metrics.json of a run whose grpo finds the cell at once and zero_shot late."""
  folder.mkdir()
  manifest = {"models": {"answerer": answerer}}
  (folder / "manifest.json").write_text(json.dumps(manifest))
  late = rows("zero_shot", 40, cells)
  late["cells"] = [cells and ["a/b=e"]] * 20 + [cells] * 20
  for name, table in (("grpo", rows("grpo", 40, cells)), ("zero_shot", late)):
    records.write_parquet(folder / "evaluations" / f"{name}.parquet", table)
  return evaluate.measure(folder, Letters(), seed=0)


def test_a_run_is_measured_by_its_own_answerers_census(tmp_path, monkeypatch):
  """Wrong with the truth of the first answerer, whose planted cell nobody finds."""
  monkeypatch.setattr(evaluate.census, "_CENSUSES", tmp_path)
  for name, cell in (("answerer", "a/b=d"), ("answerer_other", "a/b=c")):
    cells = {cell: {"n": 300, "failures": 270, "rate": 0.9, "planted": True}}
    content = {"answerer": f"testbed/{name}@1", "cells": cells}
    (tmp_path / f"{name}.census.json").write_text(json.dumps(content))
  out = measured(tmp_path / "run", "testbed/answerer_other@1", ["a/b=c"])
  assert out == json.loads((tmp_path / "run" / "metrics.json").read_text())
  found = {m: own["during"]["planted"] for m, own in out["methods"].items()}
  for method, own in found.items():
    table = pd.read_parquet(tmp_path / "run" / "evaluations" / f"{method}.parquet")
    assert own == metrics.planted_truth(table, cells) and own["recall"] == 1
  ratio = out["comparison"]["grpo"]["during"]["planted_area_ratio"]
  # Upside down it is below 1.
  assert ratio == found["grpo"]["area"] / found["zero_shot"]["area"] > 2


@pytest.mark.parametrize(
  "answerer",
  ["testbed/tiny@2", "elsewhere/tiny@1", "tiny@1", "testbed/other@1", "gpt", ""],
)
def test_no_other_answerer_is_measured_by_it(tmp_path, monkeypatch, answerer):
  """A rebuilt checkpoint, or a stranger of the same name, fails elsewhere."""
  monkeypatch.setattr(evaluate.census, "_CENSUSES", tmp_path)
  content = {"answerer": "testbed/tiny@1", "cells": {}}
  (tmp_path / "tiny.census.json").write_text(json.dumps(content))
  (tmp_path / "manifest.json").write_text(
    json.dumps({"models": {"answerer": answerer}})
  )
  assert evaluate.shipped_census(tmp_path) is None


def test_photographs_are_measured_without_a_census(tmp_path, monkeypatch):
  """No cells, no manifest: no KeyError, and null in metrics.json."""
  monkeypatch.setattr(evaluate.census, "_CENSUSES", tmp_path)
  content = {"answerer": "testbed/tiny@1", "cells": {}}
  (tmp_path / "tiny.census.json").write_text(json.dumps(content))
  out = measured(tmp_path / "run", "testbed/tiny@1", None)
  assert out["methods"]["grpo"]["during"]["planted"] is None
  assert out["comparison"]["grpo"]["during"]["planted_area_ratio"] is None
  (tmp_path / "run" / "manifest.json").unlink()
  assert evaluate.measure(tmp_path / "run", Letters(), seed=0) == out
