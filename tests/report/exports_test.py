import json
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmd_jax import metrics, records, report
from fmd_jax.report import exports, pictures
from fmd_jax.report.templates.lmms_eval import scoring
from tests.report import fake

HOSTILE = "<image> | <b>`what`</b>\n<video>\u202e"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  rows = fake.make_workdir(folder, steps=20)
  return folder, rows


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
  target = tmp_path_factory.mktemp("out") / "failures"
  made = report.export(workdir[0], target)
  return target, {form: pathlib.Path(folder) for form, folder in made.items()}


def distinct(rows):
  """(image, question) -> row, the valid ones that are wrong at their first time."""
  found = {}
  for row in rows.to_dict("records"):
    if row["status"] == "ok" and row["valid"] is True:
      found.setdefault((row["image_id"], row["question"]), row)
  return {key: row for key, row in found.items() if row["correct"] is False}


def read_evaluations(folder):
  paths = sorted((folder / "evaluations").glob("*.parquet"))
  return pd.concat(map(pd.read_parquet, paths))


def test_datasets_reads_what_was_written(workdir, exported, tmp_path):
  # Wrong: bytes instead of images, a failure twice, what was answered rightly.
  datasets = pytest.importorskip("datasets")
  expected = distinct(read_evaluations(workdir[0]))
  found = datasets.load_dataset(
    str(exported[1]["dataset"]), cache_dir=str(tmp_path / "cache")
  )
  assert list(found) == ["test"] and len(found["test"]) == len(expected) > 50
  assert isinstance(found["test"].features["image"], datasets.Image)
  for row in found["test"]:
    own = expected.pop((row["image_id"], row["question"]))
    assert row["answer"] == own["answer"] and row["truth"] == own["truth"]
    assert row["skills"] == list(own["skills"]) and row["step"] == own["step"]
    assert (row["method"], row["split"]) == (own["method"], own["split"])
    path = pictures.source(workdir[0], row["image_id"])
    with Image.open(path) as image:
      assert (np.asarray(image) == np.asarray(row["image"])).all()
  assert not expected


def test_a_picture_is_stored_once_however_many_questions(exported):
  # Wrong: 25 copies of a picture of 30 kB.
  size = sum(p.stat().st_size for p in exported[1]["dataset"].rglob("*.parquet"))
  shown = sum(p.stat().st_size for p in exported[1]["conversations"].rglob("*.png"))
  lines = (exported[1]["conversations"] / "failures.jsonl").read_text().count("\n")
  assert lines > 4 * len(list(exported[1]["conversations"].rglob("*.png")))
  assert size < 1.5 * shown


def test_the_key_is_that_of_the_report(workdir, exported):
  page = report.build(workdir[0])
  with open(page, encoding="utf-8") as file:
    text = file.read()
  (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</', text)
  keys = set(json.loads(data)["columns"]["key"])
  lines = (exported[1]["conversations"] / "failures.jsonl").read_text().splitlines()
  assert {json.loads(line)["id"] for line in lines} <= keys


def test_conversations_are_those_of_llava(exported):
  folder = exported[1]["conversations"]
  for line in (folder / "failures.jsonl").read_text().splitlines():
    own = json.loads(line)
    assert (folder / own["image"]).is_file()
    human, gpt = own["conversations"]
    assert human["from"] == "human" and human["value"].startswith("<image>\n")
    assert gpt == {"from": "gpt", "value": "red"} and own["failed_answer"] == "green"


def test_what_a_model_says_stays_text(workdir, tmp_path):
  # Wrong: a second <image>, for which a trainer misses its picture; a broken table.
  row = {"question": HOSTILE, "answer": HOSTILE, "truth": None, "rationale": None}
  row |= {"key": "k", "image_id": "i", "skills": [HOSTILE], "method": "grpo"}
  found = exports.conversation(row | {"split": "train", "step": 1})
  (only,) = found["conversations"]  # nobody knows the right answer
  assert only["value"].count("<image>") == 1 and "<video>" not in only["value"]
  assert "\n" not in json.dumps(found) and "<" not in exports._plain(HOSTILE)
  assert exports._plain("a|b\nc") == "a\\|b c"


def test_the_limit_and_missing_pictures_are_told(workdir, tmp_path, monkeypatch):
  rows = read_evaluations(workdir[0])
  n, gone = len(distinct(rows)), rows["image_id"].iloc[0]
  real = pictures.source
  monkeypatch.setattr(
    pictures, "source", lambda folder, i: None if i == gone else real(folder, i)
  )
  made = report.export(workdir[0], tmp_path / "out", 40)
  card = (made["dataset"] / "README.md").read_text()
  kept = len((made["conversations"] / "failures.jsonl").read_text().splitlines())
  assert kept < 40
  assert f"{n - kept:,} more were left out: {n - 40:,} by chance" in card
  assert f"{40 - kept} for want of their picture" in card
  with pytest.raises(FileExistsError, match="not empty"):
    report.export(workdir[0], tmp_path / "out")


def test_a_run_without_failures_says_what_is_missing(workdir, tmp_path):
  fresh = tmp_path / "run"
  rows = read_evaluations(workdir[0])
  rows = rows[~metrics.flags(rows)["failure"]]
  records.write_parquet(fresh / "evaluations" / "grpo.parquet", rows)
  with pytest.raises(FileNotFoundError, match="no failure to export"):
    report.export(fresh, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("reply", "truth", "fixed"),
  [
    ("Red.", "red", True),
    ("The star is dark red, I think", "red", True),
    ("reddish", "red", False),
    ("three", "3", True),
    ("There are 13", "3", False),
    ("Yes, there is no star", "yes", True),
    ("no", "yes", False),
    ("top-right corner", "top right", True),
    ("right of the top", "top right", False),
    ("", "red", False),
    ("anything", "!", False),
  ],
)
def test_a_reply_is_fixed_when_it_says_the_truth(reply, truth, fixed):
  doc = {"truth": truth, "answer": "Green", "image_id": "i", "skills": ["color"]}
  found = scoring.process_results(doc, [reply])
  assert found["fixed"]["score"] == fixed and found["repeated"]["score"] == 0
  assert scoring.process_results(doc, ["green!"])["repeated"]["score"] == 1


def test_a_reply_without_a_truth_is_not_scored():
  # Wrong: 0 for what nobody can judge.
  doc = {"truth": None, "answer": "Green", "image_id": "i", "skills": []}
  found = scoring.process_results(doc, ["red"])
  assert set(found) == {"repeated"}
  items = [{"score": s, "skills": ["a"]} for s in (1.0, 0.0, 0.0, 0.0)]
  assert scoring.mean(items) == 0.25 and scoring.mean([]) is None


def test_the_task_has_the_schema_of_lmms_eval(exported):
  yaml = pytest.importorskip("yaml")
  folder = exported[1]["lmms-eval task"]

  class Loader(yaml.SafeLoader):
    pass

  Loader.add_constructor("!function", lambda _, node: node.value)
  (path,) = folder.glob("*.yaml")
  task = yaml.load(path.read_text(), Loader)
  assert task["task"] == path.stem == folder.name
  assert re.fullmatch(r"[A-Za-z0-9_]+", task["task"])
  for file in task["dataset_kwargs"]["data_files"]["test"]:
    assert (folder / file).is_file()
  named = [v for k, v in task.items() if k.startswith(("doc_to", "process"))]
  named += [one["aggregation"] for one in task["metric_list"]]
  for name in named:
    assert callable(getattr(scoring, name.removeprefix("scoring.")))
  assert [one["metric"] for one in task["metric_list"]] == ["fixed", "repeated"]


@pytest.mark.slow
def test_lmms_eval_loads_and_scores_the_task(exported):
  # Its own loader and its own loop; the model is one that repeats a mistake.
  tasks = pytest.importorskip("lmms_eval.tasks", reason="pip install lmms-eval==0.7.3")
  folder = exported[1]["lmms-eval task"]
  manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
  assert manager.all_tasks == [folder.name]
  task = manager.load_task_or_group(folder.name)[folder.name]
  docs = task.test_docs()
  assert len(docs) > 50
  for i in (0, len(docs) - 1):
    doc = docs[i]
    (image,) = task.doc_to_visual(doc)
    assert image.size == (112, 112) and image.mode == "RGB"
    assert task.doc_to_text(doc) == doc["question"] + (
      "\nAnswer with one word or a short phrase."
    )
    scores = task.process_results(doc, [doc["truth"]])
    assert scores["fixed"]["score"] == 1 and scores["repeated"]["score"] == 0
  assert set(task.aggregation()) == {"fixed", "repeated"}
