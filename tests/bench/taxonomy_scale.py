"""A taxonomy of 200 000 primitives: seconds and memory, from annotations to tables.

  python tests/bench/taxonomy_scale.py

Everything is real but the annotator and the namer, which are free: 70 000 questions,
three primitives each, more than 20 000 distinct phrases; MiniLM embeds them, BERTopic
clusters them on three seeds. Memory is the peak of this process.
"""

import hashlib
import json
import os
import pathlib
import resource
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from absl import logging  # noqa: E402

from fmd_jax import inference, taxonomy  # noqa: E402
from fmd_jax.inference import Reply  # noqa: E402

QUESTIONS = 70_000
IMAGES = 100
_VERBS = """recognising counting reading comparing locating tracking matching
  describing estimating verifying separating naming ordering measuring interpreting
  detecting"""
_DETAILS = """small distant hidden blurred overlapping reflected striped wooden metallic
  broken folded upside-down handwritten printed moving empty crowded shaded tilted
  transparent floating stacked leaning open closed torn wet dusty glowing"""
_THINGS = """traffic-signs street-names logos price-tags clocks faces hands shoes dogs
  birds cups plates knives chairs lamps windows doors bicycles wheels engines cables
  connectors keyboards screens buttons labels maps charts tables arrows shadows clouds
  trees leaves flowers fruits bread cakes bottles boxes bags books pages letters digits
  equations stamps coins flags bridges roofs stairs fences rails"""
VERBS, DETAILS, THINGS = (own.split() for own in (_VERBS, _DETAILS, _THINGS))


class Free:
  """An annotator and namer that costs nothing and never fails."""

  name, revision = "free", ""

  def generate(self, requests):
    return [Reply(json.dumps(self._say(request.fields))) for request in requests]

  def _say(self, fields):
    if fields["task"] == "primitives":
      # A long tail, as in real pools: some phrases are common, most are rare.
      return {"primitives": [_phrase(fields["question"], i) for i in range(3)]}
    if fields["task"] == "label":
      words = [p.split()[-1] for p in json.loads(fields["phrases"])]
      return {"label": max(sorted(set(words)), key=words.count)}
    skills = json.loads(fields["skills"])
    group = {"name": "all", "description": "All skills.", "skills": skills}
    return {"meta_skills": [group]}


def _phrase(question: str, i: int) -> str:
  digest = hashlib.blake2b(f"{question} {i}".encode(), digest_size=8).digest()
  generator = np.random.default_rng(int.from_bytes(digest, "big"))
  v, d, t = (
    int(len(own) * generator.random() ** 1.1) for own in (VERBS, DETAILS, THINGS)
  )
  return f"{VERBS[v]} {DETAILS[d]} {THINGS[t]}"


def _workdir(folder: pathlib.Path) -> pathlib.Path:
  (folder / "images").mkdir()
  (folder / "evaluations").mkdir()
  for i in range(IMAGES):
    (folder / "images" / f"{i}.png").write_bytes(f"picture {i}".encode())
  n = np.arange(QUESTIONS)
  table = pd.DataFrame(
    {
      "method": "grpo",
      "split": "train",
      "step": n // 100,
      "image_id": (n % IMAGES).astype(str),
      "response_index": 0,
      "slot": n // IMAGES,
      "question": [f"Question {i}?" for i in n],
      "status": "ok",
      "valid": pd.array([True] * QUESTIONS, dtype="boolean"),
      "correct": pd.array(n % 3 > 0, dtype="boolean"),
    }
  )
  table.to_parquet(folder / "evaluations" / "grpo.parquet")
  return folder


def main() -> None:
  logging.set_verbosity(logging.INFO)
  settings = taxonomy.Settings(
    seed=0,
    questions=0,
    max_tokens=64,
    retries=0,
    near_duplicate=0.95,
    min_topic_size=0,
    stability_seeds=3,
    label_duplicate=0.9,
  )
  free = Free()
  with tempfile.TemporaryDirectory() as name:
    workdir = _workdir(pathlib.Path(name))
    start = time.perf_counter()
    models = taxonomy.Models(free, free, inference.resolve_embedder("minilm://"))
    home = taxonomy.build([workdir], models, settings)
    seconds = time.perf_counter() - start
    summary = json.loads((home / "summary.json").read_text())
    primitives = int(pd.read_parquet(home / "primitives.parquet")["count"].sum())
  # Linux counts kilobytes.
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  rows = {
    "primitives": primitives,
    "distinct phrases": summary["phrases"],
    "after near-duplicates": summary["primitives"],
    "topics": summary["topics"],
    "outliers": round(summary["outliers"], 3),
    "skills": summary["skills"],
    "adjusted Rand index": [round(value, 3) for value in summary["agreement"]],
    "seconds": round(seconds, 1),
    "peak MB": round(peak),
  }
  for key, value in rows.items():
    print(f"{key:24} {value}")
  print(json.dumps({"seconds": seconds, "peak_rss_mb": peak, "primitives": primitives}))


if __name__ == "__main__":
  main()
