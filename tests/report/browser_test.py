"""What the browser of failures is given, read from the page without a browser."""

import json
import re

import pandas as pd

from fmd_jax import records, report
from fmd_jax.report import browser
from fmd_jax.report.reading import read_run
from tests.report import fake


def test_every_failure_is_there_once(workdir, page):
  # Wrong: invalid questions, repeats as new findings, methods merged.
  own = fake.content(page)
  columns, text = own["columns"], own["text"]
  labels = {"Zero Shot": "zero_shot", "RL (GRPO)": "grpo"}
  methods = [labels[label] for label, _ in own["methods"]]
  found = {}
  for i, status in enumerate(columns["status"]):
    if own["statuses"][status] == "wrong":
      image = own["names"][columns["image"][i]]
      key = methods[columns["method"][i]], image, text[columns["question"][i]]
      assert key not in found
      found[key] = columns["times"][i], columns["step"][i]
  assert found == fake.expected(workdir[1]) and len(found) > 100
  assert len(set(columns["key"])) == len(columns["key"])


def test_a_permalink_outlives_the_next_report(workdir, page):
  # Wrong: a number in the order of the day.
  before = fake.content(page)["columns"]["key"]
  rows = read_run(workdir[0]).evaluations
  shuffled = rows.sample(frac=1, random_state=0).sort_values("step", kind="stable")
  after, _ = browser.shown(shuffled, browser.MAX_FAILURES)
  assert set(before) == set(after["key"])


def test_the_limit_leaves_out_by_chance_and_says_so(workdir, a_copy):
  rows = read_run(workdir[0]).evaluations
  kept, found = browser.shown(rows, 30)
  assert (kept["shown_as"] == "wrong").sum() == 30 and found == len(fake.expected(rows))
  assert kept.loc[kept["shown_as"] == "wrong", "method"].nunique() == 2
  page = report.build(a_copy, 30)
  with open(page, encoding="utf-8") as file:
    assert f"{found - 30:,} more are left out" in file.read()


def test_the_taxonomy_takes_the_place_of_the_judges_skills(a_copy):
  # Wrong: the oracle's names beside a taxonomy; a tree of cells instead of meta-skills.
  fake.make_taxonomy(a_copy)
  run = read_run(a_copy)
  assert {s for own in run.evaluations["skills"].dropna() for s in own} == {
    "naming colours", "counting things", "reading letters",
  }  # fmt: skip
  page = report.build(a_copy)
  own = fake.content(page)
  assert dict(zip(own["skills"], own["groups"], strict=True)) == {
    "naming colours": "attributes",
    "counting things": "numbers",
    "reading letters": "attributes",
  }
  with open(page, encoding="utf-8") as file:
    source = file.read()
  tree = source[source.index('class="tree"') : source.index("</details>\n<div")]
  names = re.findall(r'class="said"[^>]*>([^<,]+)<', tree)
  assert names == ["attributes", "reading letters", "naming colours", "numbers",
                   "counting things"]  # fmt: skip
  assert "letter on a shape, the letter shown" in tree  # phrases, the frequent first


def test_rates_are_uncalibrated_until_someone_measured_the_judge(a_copy):
  def read():
    with open(report.build(a_copy), encoding="utf-8") as file:
      return file.read()

  assert read().count(">uncalibrated</a>") > 5
  rate = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 240, "hits": 216}
  found = {"judges": {"another": {}}}
  (a_copy / "calibration.json").write_text(json.dumps(found))
  assert ">uncalibrated</a>" in read()  # it says nothing of this judge
  found["judges"]["oracle"] = {"correct": {"sensitivity": rate, "specificity": rate}}
  (a_copy / "calibration.json").write_text(json.dumps(found))
  source = read()
  assert ">uncalibrated</a>" not in source and "(85.0–95.0, 240 questions)" in source


def test_many_pictures_stand_beside_the_page(a_copy, monkeypatch):
  # Wrong: a page of hundreds of megabytes; the same work again for the next one.
  monkeypatch.setattr("fmd_jax.report.pictures.INLINE_BYTES", 10_000)
  images = a_copy / "images"
  odd = "a#b %41?"
  used = sorted(read_run(a_copy).evaluations["image_id"].unique())
  for path in (a_copy / "evaluations").glob("*.parquet"):
    rows = pd.read_parquet(path)
    rows["image_id"] = rows["image_id"].replace({used[0]: odd, used[1]: "broken"})
    records.write_parquet(path, rows)
  (images / f"{used[0]}.png").rename(images / f"{odd}.png")
  (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
  page = report.build(a_copy)
  own = fake.content(page)
  where = dict(zip(own["names"], own["images"], strict=True))
  assert where[odd] == "images/a%23b%20%2541%3F.jpg" and where["broken"] == ""
  made = sorted((a_copy / "report/images").iterdir())
  assert len(made) == sum(map(bool, own["images"])) > 20
  times = [path.stat().st_mtime_ns for path in made]
  report.build(a_copy)
  assert [path.stat().st_mtime_ns for path in made] == times


def test_a_note_and_five_reasons_are_told_apart():
  whys = browser._whys("no verdict\ngrammatical: fine\nreally: fine\ncorrect: it is 2")
  assert whys == {
    "": "no verdict", "grammatical": "fine\nreally: fine", "correct": "it is 2",
  }  # fmt: skip
