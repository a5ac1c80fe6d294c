"""Tiers on the page: how many of each, of which failure, and a page of one tier."""

import json
import pathlib
import shutil

import pandas as pd
import pytest

from fmd_jax import evaluate, metrics, records, report


@pytest.fixture
def confirmed(a_copy):
  """The copy with its failures in tiers 1 to 5 in turns; every seventh is open."""
  tables = [pd.read_parquet(p) for p in (a_copy / "evaluations").glob("*.parquet")]
  rows = pd.concat(tables)
  rows = rows[metrics.flags(rows)["failure"]].drop_duplicates(["image_id", "question"])
  table = rows[["image_id", "question", "answer", "truth"]].reset_index(drop=True)
  table["tier"] = [1 + place % 5 for place in range(len(table))]
  table["open"] = [place % 7 == 0 and place % 5 < 4 for place in range(len(table))]
  for name in ("again", "paraphrase", "second_judge", "needs_image", "unambiguous"):
    table[name] = "passed"
  table["why"] = "again: <b>greedy</b> wrong"
  names = [path.stem for path in (a_copy / "evaluations").glob("*.parquet")]
  settings = {"samples": 4, "models": {"second": "<i>other</i>"}}
  statement = {"settings": settings, "thresholds": dict.fromkeys(names, 1.0), "seed": 0}
  statement |= {"failures": len(table) + 3, "sample": None}
  records.write_confirmed(a_copy, records.Confirmed(table, statement))
  return a_copy, table


def content(page):
  text = pathlib.Path(page).read_text(encoding="utf-8")
  start = text.index('id="data">') + len('id="data">')
  return text, json.loads(text[start : text.index("</script>", start)])


def test_the_page_tells_the_tier_of_each_failure(confirmed):
  folder, table = confirmed
  text, data = content(report.build(folder))
  known = table.set_index(["image_id", "question"])["tier"]
  columns = data["columns"]
  for place, status in enumerate(columns["status"]):
    key = (
      data["names"][columns["image"][place]],
      data["text"][columns["question"][place]],
    )
    wrong = data["statuses"][status] == "wrong"
    assert columns["tier"][place] == (known[key] if wrong else 0)
  third = table[(table["tier"] >= 3) | ~table["open"]]
  reached = (third["tier"] >= 3).sum()
  assert f"{reached:,} of {len(third):,}" in text
  assert "&lt;i&gt;other" in text and "<b>greedy</b>" not in text


def test_a_page_of_one_tier_counts_its_failures_only(confirmed):
  folder, table = confirmed
  with pytest.raises(FileNotFoundError, match="launch.evaluate .* --tier 3"):
    report.build(folder, tier=3)
  shutil.copy(folder / "metrics.json", folder / "metrics-tier-3.json")
  page = report.build(folder, tier=3)
  assert page.endswith("report/tier-3.html")
  text, data = content(page)
  assert "only failures of tier 3 or higher" in text
  columns = data["columns"]
  wrong = [t for t, s in zip(columns["tier"], columns["status"]) if s == 0]
  assert wrong and min(wrong) == 3
  found = evaluate.read_evaluations(folder, tier=3)
  failed = pd.concat(list(found.values()))
  failed = failed[metrics.flags(failed)["failure"]]
  distinct = len(failed.drop_duplicates(["image_id", "question"]))
  assert distinct == (table["tier"] >= 3).sum()
