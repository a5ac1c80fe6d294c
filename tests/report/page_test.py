import html.parser
import json
import re
import shutil

import pandas as pd
import pytest

from fmd_jax import metrics, records, report
from fmd_jax.report import curves, failures, unscored
from fmd_jax.report.pictures import picture
from fmd_jax.report.reading import read_run
from tests.report import fake

HOSTILE = (
  "<script>alert(1)</script>",
  '"><img src=x onerror=alert(1)>',
  "</style><style>*{display:none}</style>",
  "{{ 7 * 7 }} {% raw %} javascript:alert(1)",
  "\u202egnirts desrever\x00 </span></p></article>",
)


class Page(html.parser.HTMLParser):
  """Tags, attributes and visible text of a page."""

  def __init__(self, path):
    super().__init__()
    self.tags, self.attributes, self.text, self._in = [], [], "", None
    with open(path, encoding="utf-8") as file:
      self.source = file.read()
    self.feed(self.source)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    self._in = tag

  def handle_data(self, data):
    self.text += "" if self._in in ("style", "title", "script") else data


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  rows = fake.make_workdir(folder)
  return folder, rows, Page(report.build(folder))


@pytest.fixture
def a_copy(workdir, tmp_path):
  return shutil.copytree(workdir[0], tmp_path / "run")


def test_the_page_needs_no_other_file(workdir):
  # Wrong: a picture, font or script beside the file or on a server.
  page = workdir[2]
  assert "link" not in page.tags and "iframe" not in page.tags
  addresses = [v for k, v in page.attributes if k in ("src", "href", "srcset")]
  assert addresses and all(v.startswith(("data:image/", "#")) for v in addresses)
  assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttp", page.source)
  assert len(page.source) < 2_000_000


def test_the_numbers_are_those_of_the_rows(workdir):
  # Wrong: the training verifier's rows, or one protocol's numbers under the other.
  _, rows, page = workdir
  fdr = {}
  for method in ("zero_shot", "grpo"):
    for split in ("train", "heldout"):
      own = rows[(rows["method"] == method) & (rows["split"] == split)]
      valid = [r for r in own.to_dict("records") if r["valid"] is True]
      wrong = sum(not r["correct"] for r in valid)
      assert f"{100 * wrong / len(valid):.1f}%" in page.text
      if split == "heldout":
        assert f"{wrong} of {len(valid)} valid questions" in page.text
        fdr[method] = wrong / len(valid)
  assert f"{fdr['grpo'] / fdr['zero_shot']:.2f} times as often" in page.text


def test_the_planted_skill_is_on_top(workdir):
  # Wrong: ranked by the number of failures (`color` is asked most), or by name.
  page = workdir[2]
  order = re.findall(r"\d\. (ocr|color|existence|counting_all)", page.text)
  assert order[0] == fake.WORST and sorted(order) == sorted(fake.FAILS)


def planted_rows(page):
  """The rows of the tables about planted cells, two a protocol: [[text of a cell]]."""
  part = page.source.split("Planted blind spots: found or not")[1].split("<h2")[0]
  rows = re.findall(r"<tr><td.*?</tr>", part, re.DOTALL)
  cells = [re.findall(r"<td.*?</td>", row, re.DOTALL) for row in rows]
  return [[" ".join(re.sub("<.*?>", "", c).split()) for c in row] for row in cells]


def test_planted_cells_are_told_with_the_questions_they_took(workdir):
  # Wrong: the numbers of the unseen pictures, of another method, the explained ones
  # for the plain ones; a cell that nobody asked about left out.
  _, rows, page = workdir
  told = planted_rows(page)
  found = []
  for method in ("zero_shot", "grpo"):
    own = rows[(rows["method"] == method) & (rows["split"] == "train")]
    found.append(metrics.planted_truth(own, fake.CENSUS))
  for (label, n, recall, precision, at_6000, area), own in zip(told, found):
    assert (n, recall) == ("720", "1 of 2 explained: 1 of 2")
    assert label in ("Zero Shot", "RL (GRPO)")
    right = f"1 of {len(own['discovered'])}"
    assert precision.startswith(right) and at_6000 == "– explained: –"
    assert area == f"{own['area']:.3f} explained: {own['explained']['area']:.3f}"
  after = [own["found_after"]["ocr/color=red"] for own in found]
  assert told[2] == ["ocr/color=red", "90.0% of 400"] + [
    f"{n} explained: {n}" for n in after
  ]
  assert told[3] == [fake.UNASKED, "80.1% of 311"] + ["– explained: –"] * 2
  assert after[1] < after[0]
  # The final policy comes second, of other rows.
  asked = rows[rows["split"] == "heldout"].groupby("method").size()
  assert len(told) == 8 and told[4][1] == str(asked["zero_shot"]) != told[0][1]


def test_the_two_definitions_are_told_apart(a_copy):
  # Wrong: one of them twice.
  content = json.loads((a_copy / "metrics.json").read_text())
  own = content["methods"]["grpo"]["during"]["planted"]
  flagged = [{"weak": True}, {"weak": False}, {"weak": True}]
  own |= {"found": [], "discovered": flagged, "area": 0.25, "n": 7000}
  own |= {"at_6000": {"recall": 0.5, "precision": None}}
  own["found_after"]["ocr/color=red"] = None
  other = own["explained"]
  other |= {"found": [fake.UNASKED, "x"], "discovered": flagged[:1], "area": 0.75}
  other |= {"at_6000": {"recall": 1.0, "precision": None}}
  other["found_after"]["ocr/color=red"] = 1234
  other["curve"] = {"n": [0, 7000], "recall": [0.0, 1.0], "precision": [None, 1.0]}
  (a_copy / "metrics.json").write_text(json.dumps(content))
  page = Page(report.build(a_copy))
  told = planted_rows(page)
  assert told[1] == [
    "RL (GRPO)", "7,000", "0 of 2 explained: 2 of 2", "2 of 3 explained: 1 of 1",
    "50.0% explained: 100.0%", "0.250 explained: 0.750",
  ]  # fmt: skip
  assert told[2][3] == "– explained: 1,234"
  figures = re.findall(r"<figure><h3>Planted.*?</figure>", page.source, re.S)
  plain, explained, *after = figures
  assert len(after) == 2
  assert ">7000<" not in plain and ">6000<" in explained


def test_without_a_census_nothing_is_told_of_planted_cells(a_copy):
  # Photographs, another answerer, an older metrics.json, no blind spot planted.
  content = json.loads((a_copy / "metrics.json").read_text())
  own = [p for m in content["methods"].values() for p in m.values()]
  none, absent = own[:2], own[2]
  for summary in none:
    summary["planted"] = None
  del absent["planted"]
  own[3]["planted"]["planted"] = []
  (a_copy / "metrics.json").write_text(json.dumps(content))
  assert "Planted blind spots" not in Page(report.build(a_copy)).text


def test_the_final_policy_is_told_of_when_nothing_else_is(a_copy):
  content = json.loads((a_copy / "metrics.json").read_text())
  for protocols in content["methods"].values():
    protocols["during"]["planted"] = None
  (a_copy / "metrics.json").write_text(json.dumps(content))
  n = content["methods"]["grpo"]["after"]["questions"]
  assert [row[1] for row in planted_rows(Page(report.build(a_copy)))[:2]] == [
    str(n)
  ] * 2


def test_what_a_model_says_is_shown_and_never_run(a_copy):
  # Wrong: autoescape off, or text pasted into an attribute, a style, an SVG.
  harmless = Page(report.build(a_copy)).tags
  for path in (a_copy / "evaluations").glob("*.parquet"):
    rows = pd.read_parquet(path)
    for column in ("question", "answer", "truth", "rationale"):
      rows[column] = [
        HOSTILE[i % len(HOSTILE)] + str(i) if isinstance(value, str) else None
        for i, value in enumerate(rows[column])
      ]
    rows["truth"] = rows["truth"].where(rows.index % 2 == 0, None)
    rows["prefix"] = HOSTILE[1]
    rows["skills"] = [[HOSTILE[i % 3]] for i in range(len(rows))]
    records.write_parquet(path, rows)
  manifest = json.loads((a_copy / "manifest.json").read_text())
  manifest["models"]["answerer"] = manifest["argv"][0] = HOSTILE[1]
  (a_copy / "manifest.json").write_text(json.dumps(manifest))
  text = (a_copy / "metrics.json").read_text()
  text = text.replace(fake.UNASKED, json.dumps(HOSTILE[1])[1:-1])  # a cell's name
  (a_copy / "metrics.json").write_text(text)
  page = Page(report.build(a_copy))
  assert set(page.tags) == set(harmless) and page.tags.count("style") == 1
  assert page.tags.count("script") == 3  # the data, and two of ours
  assert not [k for k, _ in page.attributes if k.startswith("on")]
  assert all(v.startswith("data:image/") for k, v in page.attributes if k == "src")
  assert "<script>alert(1)</script>" in page.text  # as text, for the reader
  assert "\x00" not in page.source and "\u202e" not in page.source


def test_a_run_that_is_not_finished_has_a_report(a_copy):
  # Wrong: KeyError for what is not there yet.
  shutil.rmtree(a_copy / "evaluations")
  for name in ("metrics.json", "measurements.jsonl", "manifest.json", "config.json"):
    (a_copy / name).unlink()
  shutil.rmtree(a_copy / "images")
  page = Page(report.build(a_copy))
  assert "Nothing has been judged" in page.text and page.tags.count("svg") == 4
  with pytest.raises(FileNotFoundError, match="holds no run"):
    report.build(a_copy / "records")


def test_photographs_without_skills_are_grouped_by_beginning(a_copy):
  # Wrong: an empty list of failures wherever no truth is known.
  for path in (a_copy / "evaluations").glob("*.parquet"):
    columns = ["skills", "truth", "cells"]
    records.write_parquet(path, pd.read_parquet(path).drop(columns=columns))
  page = Page(report.build(a_copy))
  assert "1. which letter" in page.text
  assert "the oracle says so" in page.text  # the judge's reason instead of the truth


def test_a_question_asked_again_is_one_finding():
  # Wrong: counted as often as asked: a collapsed questioner finds a thousand.
  row = {"image_id": "a", "question": "Q?", "status": "ok", "valid": True}
  row |= {"correct": False, "prefix": "q", "method": "grpo"}
  rows = pd.DataFrame([row] * 5 + [row | {"image_id": "b"}, row | {"valid": False}])
  assert len(failures.distinct_valid(rows)) == 2
  assert failures.by_method(rows, ["grpo"]) == {"q": {"grpo": (2, 2)}}


def test_examples_are_failures_of_the_group_on_different_pictures(workdir):
  # Wrong: the first rows as they come, right answers and one picture four times.
  rows = failures.distinct_valid(workdir[1])
  used = set()
  first = failures.examples(rows, "color", 4, used)
  second = failures.examples(rows, "existence", 4, used)
  third = failures.examples(rows, fake.WORST, 4, used)
  for chosen, group in ((first, "color"), (second, "existence"), (third, fake.WORST)):
    assert chosen["image_id"].nunique() == len(chosen) == 4
    assert not chosen["correct"].astype(bool).any()
    assert all(group in groups for groups in chosen["groups"])
  # A colour question needs `existence` too; it is not shown twice.
  assert not set(first.index) & set(second.index)


def test_curves_are_the_rates_of_their_bins(workdir):
  # Wrong: FDR over all questions instead of the valid ones; a last bin left out.
  rows = workdir[1]
  rows = rows[(rows["method"] == "grpo") & (rows["split"] == "train")]
  frame = curves.over_steps(rows)
  assert frame["step"].tolist() == [2 * i + 0.5 for i in range(30)]
  for i in (0, 29):
    part = rows[rows["step"].isin([2 * i, 2 * i + 1])].to_dict("records")
    valid = [r for r in part if r["valid"] is True]
    scored = [r for r in part if r["status"] != "unscored"]
    wrong = [r for r in valid if not r["correct"]]
    assert frame["qvr"][i] == len(valid) / len(scored)
    assert frame["fdr"][i] == len(wrong) / len(valid)
    questions = [r["question"] for r in valid]
    assert frame["ld"][i] == metrics.prefix_entropy(questions)["ld"]


def test_a_picture_comes_from_the_images_folder_only(a_copy):
  # Wrong: an image_id from a crafted file reads anything on the disc.
  name = next((a_copy / "images").iterdir()).stem
  (a_copy / "secret.png").write_bytes((a_copy / "images" / f"{name}.png").read_bytes())
  assert picture(a_copy, name).startswith("data:image/jpeg;base64,")
  assert picture(a_copy, "../secret") == picture(a_copy, "absent") == ""


def test_why_there_is_no_verdict_is_told(a_copy):
  # Wrong: 40 reasons that differ in a number or in what the judge said; or none.
  def rationale(number):
    if number % 3:
      return f"not a verdict: cut off at {number} tokens: 'I {number}'"
    return "no verdict: HTTP 500: <b>oops</b>"

  path = a_copy / "evaluations" / "grpo.parquet"
  rows = pd.read_parquet(path)
  own = rows["status"] == "unscored"
  rows.loc[own, "rationale"] = [rationale(i) for i in range(own.sum())]
  rows.to_parquet(path)
  found = [r for r in unscored.reasons(read_run(a_copy)) if r.judge == "Evaluator"]
  counts = {r.text: r.count for r in found}
  cut = sum(bool(i % 3) for i in range(own.sum()))
  assert counts["not a verdict: cut off at N tokens"] == cut > 1
  assert counts["no verdict: HTTP N: <b>oops</b>"] == own.sum() - cut
  text = Page(report.build(a_copy)).text
  assert "not a verdict: cut off at N tokens" in text and "<b>oops</b>" in text
