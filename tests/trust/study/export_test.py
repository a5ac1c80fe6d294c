"""The sample and its folder: weights that undo it, and nothing of a verdict to see."""

import csv
import io
import json
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from fmd_jax.trust import study as kit
from fmd_jax.trust.study import forms
from tests.trust.study import made

CELL = ["method", "split", "verdict"]


@pytest.fixture(scope="module")
def slots(run):
  return kit.judged_slots(run[0])


def test_the_frame_is_every_judged_slot(run, slots):
  total = sum(len(table) for table in run[1].values())
  assert len(slots) == total
  wrong = sum((t["valid"] & ~t["correct"]).sum() for t in run[1].values())
  assert (slots["verdict"] == "wrong").sum() == wrong
  only = kit.judged_slots(run[0], ["grpo"])
  assert set(only["method"]) == {"grpo"}
  with pytest.raises(ValueError, match="no evaluations of method sft; there are: grpo"):
    kit.judged_slots(run[0], ["sft"])
  with pytest.raises(ValueError, match="not evaluated"):
    kit.judged_slots(run[0] / "images")


def test_a_weight_is_one_over_the_share_of_its_stratum(slots):
  drawn = kit.draw_slots(slots, 40, seed=3)
  assert len(drawn) == 40 and not drawn.duplicated(made.KEY).any()
  by = [*CELL, "stratum"]
  there = drawn.groupby(by)["weight"].agg(["sum", "nunique", "size"])
  # Weights of a stratum are alike and add up to all of its slots, those of a cell too.
  assert (there["nunique"] == 1).all()
  sizes = slots.groupby(CELL).size()
  assert np.allclose(drawn.groupby(CELL)["weight"].sum(), sizes)
  for _, own in drawn.groupby(CELL):
    assert len(own) in (6, 7, 8)  # 40 over 6 cells, though they are not of one size
  # A skill that is a stratum of its own has its share, and at least one.
  named = drawn[drawn["stratum"] != "(rare)"]
  assert (named["stratum"] == named["skill"]).all()
  again = kit.draw_slots(slots, 40, seed=3)
  assert again.equals(drawn)
  assert not kit.draw_slots(slots, 40, seed=4).equals(drawn)


def test_weighted_means_of_samples_are_those_of_the_run(slots):
  """Without weights the share of wrong answers is off, as the sample favours some."""
  wrong, plain, fair, found = (slots["verdict"] == "wrong").mean(), [], [], []
  long = slots["question"].str.len() > 40
  for seed in range(60):
    drawn = kit.draw_slots(slots, 18, seed)
    hit = drawn["verdict"] == "wrong"
    plain.append(hit.mean())
    fair.append(np.average(hit, weights=drawn["weight"]))
    found.append(np.average(drawn["question"].str.len() > 40, weights=drawn["weight"]))
  assert abs(np.mean(fair) - wrong) < 1e-9  # a verdict is a stratum: exact
  assert abs(np.mean(plain) - wrong) > 0.02
  # Of a property that no stratum knows it is right on average.
  assert abs(np.mean(found) - long.mean()) < 4 * np.std(found) / np.sqrt(len(found))


def test_too_small_and_too_large_samples(slots):
  with pytest.raises(
    ValueError, match="5 items are too few: with 6 it is one for each"
  ):
    kit.draw_slots(slots, 5, seed=0)
  drawn = kit.draw_slots(slots, 10_000, seed=0)
  assert len(drawn) == len(slots) and (drawn["weight"] == 1).all()


def shared(study):
  root = study.folder / "share"
  return {
    str(path.relative_to(root)): path.read_bytes()
    for path in sorted(root.rglob("*"))
    if path.is_file()
  }


def test_what_is_shared_is_the_same_whatever_the_judge_said(run, tmp_path):
  """All slots are drawn, so verdicts could only show in text, names or order."""
  other = tmp_path / "flipped"
  made.make_run(other, flip=True)
  one = kit.export(run[0], tmp_path / "one", items=10_000)
  two = kit.export(other, tmp_path / "two", items=10_000)
  assert (one.key()["verdict"].to_numpy() != two.key()["verdict"].to_numpy()).any()
  assert shared(one) == shared(two)
  everything = b"".join(shared(one).values())
  for secret in (made.CANARY, "judge-of-the-study", "nobody-may-see", "grpo-train"):
    assert secret.encode() not in everything
  assert (one.folder / "private").stat().st_mode & 0o077 == 0


def test_a_picture_is_its_pixels_only(run, study):
  """A testbed picture carries its scene, in which every answer stands."""
  key = study.key().drop_duplicates("item").set_index("item")
  for item in study.items:
    source = run[0] / "images" / f"{key.loc[item.item, 'image_id']}.png"
    with Image.open(source) as before, Image.open(study.images / item.image) as after:
      assert before.text and not after.text
      assert (np.asarray(before) == np.asarray(after)).all()


def test_a_question_asked_twice_is_one_item(tmp_path):
  made.make_run(tmp_path / "run", images=2, texts=["What color is the star?"])
  study = kit.export(tmp_path / "run", tmp_path / "study", items=1000)
  key = study.key()
  assert len(key) == 48 and len(study.items) < 24
  assert set(key["item"]) == {item.item for item in study.items}
  labels = tmp_path / "anna.csv"
  rows = [{"item": item, "valid": 1, "correct": 0} for item in key["item"].unique()]
  write_csv(labels, rows)
  found = kit.read_labels(study, [labels])
  assert len(found.labels) == 48 and found.items == len(study.items)


def write_csv(path, rows):
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def test_nothing_is_overwritten_and_nothing_is_left_half(run, study, tmp_path):
  (study.folder / "private" / "annotations.jsonl").write_text("work\n")
  with pytest.raises(FileExistsError, match="people's work"):
    kit.export(run[0], study.folder, items=30)
  assert study.journal.read_text() == "work\n"
  broken = tmp_path / "broken"
  made.make_run(broken)
  next((broken / "images").iterdir()).unlink()
  with pytest.raises(FileNotFoundError):
    kit.export(broken, tmp_path / "none", items=10_000)
  assert {path.name for path in tmp_path.iterdir()} == {"study", "broken"}


def test_label_studio_gets_items_and_a_two_step_screen(study):
  folder = study.folder / "share" / "label_studio"
  tasks = json.loads((folder / "tasks.json").read_text())
  assert len(tasks) == len(study.items)
  for task, item in zip(tasks, study.items):
    assert set(task) == {"data"}  # no predictions: they would be seen
    assert set(task["data"]) == {"item", "image", "question", "answer"}
    assert task["data"]["item"] == item.item
    assert task["data"]["image"].startswith("data:image/png;base64,")
  tree = xml.etree.ElementTree.parse(folder / "config.xml")
  choices = {one.get("name"): one for one in tree.iter("Choices")}
  assert {k: c.get("whenChoiceValue") for k, c in choices.items()} == {
    "valid": None,
    "criterion": "Invalid",
    "flag": "Flag",
    "correct": "Valid",
  }
  values = {choice.get("value") for choice in choices["valid"]}
  assert values == {"Valid", "Invalid", "Flag"}
  (answer,) = (
    v for v in tree.iter("View") if v.find("Text[@name='answer']") is not None
  )
  assert answer.get("whenChoiceValue") == "Valid"  # the answer waits for step 2


def test_a_spreadsheet_runs_no_formula_and_keeps_every_letter(run, tmp_path):
  texts = [
    '=HYPERLINK("http://x")',
    "@cmd",
    "-1+2",
    "a\x00b",
    "שלום, \u202eabc",
    "-3",
    "é",
  ]
  made.make_run(tmp_path / "run", texts=texts)
  study = kit.export(
    tmp_path / "run", tmp_path / "study", items=60, images_at="https://pictures/x/"
  )
  content = (study.folder / "share" / "items.csv").read_bytes()
  assert content.startswith(b"\xef\xbb\xbf")  # else a spreadsheet breaks the é
  rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
  shown = {row["question"] for row in rows}
  assert shown == {"'" + t for t in texts[:3]} | {"a\ufffdb", *texts[4:]}
  assert all(row["image"].startswith("https://pictures/x/0") for row in rows)
  assert list(rows[0])[4:] == forms.FILLED and not any(rows[0][f] for f in forms.FILLED)
