"""How long a report of 20 000 failures takes to open and to filter in Chromium.

python tests/bench/report_scale.py

A run is made up: 2 000 pictures of 640 x 480, questions and reasons as long as judges
write them. `open_seconds` ends when the list is on the screen, `filter_seconds` is the
slowest of several filters and searches, each until its result is painted; medians of
five openings. The pictures stand beside the page, as they do when they are many.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from fmd_jax import records, report  # noqa: E402
from tests.report import chromium  # noqa: E402

FAILURES, OTHERS, PICTURES, SKILLS = 20_000, 10_000, 2_000, 130
DISTINCT = 40  # contents of the pictures; each is a file of its own
METHODS = ("zero_shot", "sft", "conme", "expert_iteration", "grpo", "sft_then_grpo")
OPENINGS = 5
FILTERS = {
  "skill": ("by-skill", "skill 007"),
  "method": ("by-method", "RL (GRPO)"),
  "status": ("by-status", ""),
  "steps": ("from-step", "500"),
  "one word": ("query", "zebra"),
  "three words": ("query", "left of umbrella"),
  "no hit": ("query", "xyzzy"),
}
# Resolves once the change is painted: the frame after the next has begun.
CHANGE = """
const [id, value, done] = arguments, start = performance.now();
const one = document.getElementById(id);
one.value = value;
one.dispatchEvent(new Event(one.tagName === "SELECT" ? "change" : "input"));
requestAnimationFrame(() => requestAnimationFrame(() =>
  done((performance.now() - start) / 1000)));
"""
OPENED = """
const done = arguments[0];
const check = () => document.querySelector("[role=option]")
  ? requestAnimationFrame(() => requestAnimationFrame(() => done(true)))
  : requestAnimationFrame(check);
check();
"""


def make(folder, rng):
  """Writes evaluations and pictures of a run; returns how many failures it has."""
  things = np.array(["zebra", "bus", "umbrella", "kite", "sheep", "clock", "bench"])
  sides = np.array(["left of", "right of", "behind", "above", "under"])
  n = FAILURES + OTHERS
  wrong = np.arange(n) < FAILURES
  pick = lambda of: of[rng.integers(len(of), size=n)]  # noqa: E731
  first, second, side = pick(things), pick(things), pick(sides)
  questions = [
    f"How many people are {c} the {a} that stands next to the {b} number {i}?"
    for i, (a, b, c) in enumerate(zip(first, second, side))
  ]
  why = "the question asks for one thing that can be seen in the picture and counted"
  answers = rng.integers(1, 9, size=n).astype(str)
  rows = pd.DataFrame(
    {
      "method": pick(np.array(METHODS)),
      "split": "train",
      "step": rng.integers(1000, size=n),
      "image_id": [f"{i:012d}" for i in rng.integers(PICTURES, size=n)],
      "response_index": 0,
      "slot": 0,
      "question": questions,
      "prefix": "how many",
      "answer": answers,
      "status": "ok",
      **dict.fromkeys(("grammatical", "atomic", "grounded", "objective"), True),
      "valid": True,
      "correct": ~wrong,
      "rationale": [
        f"grammatical: it is a sentence\natomic: {why}\ngrounded: the {a} is in the "
        f"picture, {c} the {b}\nobjective: {why}\ncorrect: I count {i % 7}, row {i}"
        for i, (a, b, c) in enumerate(zip(first, second, side))
      ],
      "evaluator": "judge",
      "truth": None,
      "skills": [
        [f"skill {i:03d}" for i in own] for own in rng.integers(SKILLS, size=(n, 2))
      ],
    }
  )
  records.write_parquet(folder / "evaluations" / "all.parquet", rows)
  (folder / "images").mkdir()
  for i in range(PICTURES):
    path = folder / "images" / f"{i:012d}.png"
    if i < DISTINCT:
      # Photographs compress to about as much as smooth noise does.
      coarse = rng.integers(256, size=(12, 16, 3), dtype=np.uint8)
      smooth = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
      smooth.save(path, compress_level=1)
    else:
      os.link(folder / "images" / f"{i % DISTINCT:012d}.png", path)
  return int(wrong.sum())


def main():
  if chromium.ABSENT:
    raise SystemExit(chromium.ABSENT)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    failures = make(folder, np.random.default_rng(0))
    start = time.perf_counter()
    page = pathlib.Path(report.build(folder))
    build = time.perf_counter() - start
    opened, filtered = [], {name: [] for name in FILTERS}
    with chromium.browser() as driver:
      driver.set_script_timeout(60)
      for _ in range(OPENINGS):
        driver.get("about:blank")
        start = time.perf_counter()
        driver.get(chromium.address(page))
        driver.execute_async_script(OPENED)
        opened.append(time.perf_counter() - start)
        for name, change in FILTERS.items():
          driver.find_element("id", "clear").click()
          filtered[name].append(driver.execute_async_script(CHANGE, *change))
        shown = driver.find_element("id", "count").text
      errors = chromium.errors(driver)
    if errors or not shown.startswith("0 questions"):
      raise SystemExit(f"the page is not as it should be: {shown}; {errors}")
    megabytes = page.stat().st_size / 1e6
  medians = {name: statistics.median(times) for name, times in filtered.items()}
  print(f"{'build the report':20} {build:8.2f} s")
  print(f"{'size of the page':20} {megabytes:8.1f} MB")
  print(f"{'open':20} {statistics.median(opened):8.2f} s")
  for name, seconds in medians.items():
    print(f"{'filter by ' + name:20} {seconds:8.3f} s")
  result = {
    "open_seconds": round(statistics.median(opened), 3),
    "filter_seconds": round(max(medians.values()), 3),
    "failures": failures,
    "build_seconds": round(build, 1),
    "page_megabytes": round(megabytes, 1),
  }
  print(json.dumps(result))


if __name__ == "__main__":
  main()
