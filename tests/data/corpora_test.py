"""Corpora for fine-tuning: the failures that a run found."""

import json

import pandas as pd
import pytest

from fmd_jax import data, prompts
from fmd_jax.data.corpora import failures as reading
from fmd_jax.data.testbed import draw
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.records.writer import write_image
from fmd_jax.testbed import failures
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.png import scene_of

IMAGES = [f"testbed-train-0-{i:06d}" for i in range(3)]
# method, split, image, question, valid, correct
ROWS = [
  ("zero_shot", "train", 1, "What color is it?", True, False),
  ("zero_shot", "train", 0, "Is there a star?", True, True),
  ("zero_shot", "train", 0, "How many stars?", True, False),
  ("zero_shot", "train", 1, "What color is it?", True, False),
  ("zero_shot", "train", 1, "What?", False, False),
  ("zero_shot", "train", 1, "", None, None),
  ("zero_shot", "train", 2, "Is it red?", True, None),
  ("zero_shot", "heldout", 1, "Is it big?", True, False),
  ("grpo", "train", 0, "Which letter?", True, False),
]


@pytest.fixture
def workdir(tmp_path):
  columns = ["method", "split", "image_id", "question", "valid", "correct"]
  table = pd.DataFrame(ROWS, columns=columns)
  table["image_id"] = [IMAGES[i] for i in table["image_id"]]
  for column in ("valid", "correct"):
    table[column] = table[column].astype("boolean")
  (tmp_path / "evaluations").mkdir()
  for (method, split), own in table.groupby(["method", "split"]):
    name = method if split == "train" else f"{method}_heldout"
    own.to_parquet(tmp_path / "evaluations" / f"{name}.parquet")
  for image in IMAGES:
    write_image(tmp_path, draw(image))
  models = {"answerer": "testbed/answerer_other@12ab", "questioner": "q"}
  models["evaluator"] = "oracle"
  manifest = {"models": models, "config": {"data": {"train": "testbed://"}}}
  (tmp_path / "manifest.json").write_text(json.dumps(manifest))
  return tmp_path


def read(spec, **options):
  return [(image.image_id, asked) for image, asked in data.open_corpus(spec, **options)]


def test_failures_are_the_valid_questions_with_wrong_answers(workdir):
  # Wrong: an invalid or unscored row counts as a failure, a question that was asked
  # twice is learned twice, or each row is an item and an image comes several times.
  assert read(f"failures://{workdir}?method=zero_shot&split=train") == [
    (IMAGES[1], ("What color is it?",)),
    (IMAGES[0], ("How many stars?",)),
  ]
  everything = dict(read(f"failures://{workdir}"))
  assert everything == {
    IMAGES[0]: ("Which letter?", "How many stars?"),
    IMAGES[1]: ("What color is it?", "Is it big?"),
  }
  assert len(read(f"failures://{workdir}?limit=1")) == 1
  corpus = data.open_corpus(f"failures://{workdir}")
  assert isinstance(corpus, data.Corpus)
  assert corpus[0][0] == draw(corpus[0][0].image_id)
  assert "answerer_other@12ab" in corpus.origins[0].revision


def test_failures_whose_picture_is_gone_are_named(workdir):
  (workdir / "images" / f"{IMAGES[0]}.png").unlink()
  corpus = data.open_corpus(f"failures://{workdir}")
  assert [image.image_id for image, _ in corpus] == [IMAGES[1]]
  assert [s.path for s in corpus.skipped] == [f"images/{IMAGES[0]}.png"]


def test_joined_corpora_follow_one_another(workdir):
  # Wrong: off by one at the seam, or the second corpus counted from the whole.
  specs = [f"failures://{workdir}?method={m}" for m in ("grpo", "zero_shot")]
  assert read(specs) == [item for spec in specs for item in read(spec)]
  corpus = data.open_corpus(specs)
  assert len(corpus.origins) == 2 and corpus[-1] == corpus[len(corpus) - 1]
  with pytest.raises(IndexError):
    corpus[len(corpus)]


def test_the_target_text_is_what_the_parser_of_rl_reads():
  # Wrong: tags counted from 0, or others: RL after fine-tuning starts with no question.
  questions = ("Is there a star?", "How many letters are blue?")
  assert tuple(parse_response(prompts.response(questions), 2)) == questions
  assert prompts.response(questions[:1]) == "<response_1>Is there a star?</response_1>"


def test_shipped_failures_are_those_of_the_run_drawn_anew(
  workdir, tmp_path, monkeypatch
):
  # Wrong: the final policy's rows are in it, or the pictures differ.
  (tmp_path / "assets").mkdir()
  path = failures.ship(workdir, tmp_path / "assets")
  assert path.name == "answerer_other.failures.json"
  monkeypatch.setattr(reading, "_SHIPPED", path.parent)
  shipped = data.open_corpus("failures://testbed/answerer_other")
  found = data.open_corpus(f"failures://{workdir}?split=train")
  key = lambda item: item[0].image_id  # noqa: E731
  assert sorted(shipped, key=key) == sorted(found, key=key)


def test_the_package_ships_valid_questions_about_pictures_of_their_own():
  corpus = data.open_corpus("failures://testbed/answerer_other")
  assert len(corpus) > 500
  for i in range(0, len(corpus), 50):
    image, asked = corpus[i]
    # Seed 1000: pictures that no config trains or measures on.
    assert image.image_id.startswith("testbed-train-1000-")
    scene = scene_of(image.png)
    assert len(set(asked)) == len(asked) > 0
    assert all(judge_question(text, scene).valid for text in asked)


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ("folder:///photos", "failures://"),
    ("failures:///no/such/workdir", "launch.evaluate"),
    ("failures://{}?method=conme", "'conme'; there are: method=grpo&split=train"),
    ("failures://{}?split=test", "'test'"),
    ("failures://{}?methods=grpo", "'methods'"),
    ("failures://testbed/nobody", "no such failures are shipped"),
  ],
)
def test_a_bad_spec_gets_one_line_that_names_it(workdir, spec, says):
  spec = spec.format(workdir)
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    data.open_corpus(spec)
  message = str(error.value)
  assert says in message and spec in message and "\n" not in message
