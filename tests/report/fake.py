"""A workdir as a run leaves it, made of chance; one skill fails by construction."""

import hashlib
import json
import pathlib
import re

import numpy as np
import pandas as pd

from fmd_jax import data, metrics, records
from fmd_jax.types import Record

QUESTIONS = {
  "color": "What color is the {}?",
  "counting_all": "How many objects are there besides the {}?",
  "ocr": "Which letter is on the {}?",
  "existence": "Is there a {}?",
}
THINGS = ("large red star", "small circle", "striped blue square", "arrow", "diamond")
WORST = "ocr"
FAILS = {"color": 0.1, "counting_all": 0.45, "ocr": 0.9, "existence": 0.15}
CENSUS = {
  f"{skill}/color=red": {"n": 400, "failures": int(400 * rate), "rate": rate}
  | {"planted": skill == WORST}
  for skill, rate in FAILS.items()
}
UNASKED = "size/shape=diamond"
CENSUS[UNASKED] = {"n": 311, "failures": 249, "rate": 249 / 311, "planted": True}


def rows_of(method, split, steps, images, rng):
  """Evaluation rows: `grpo` drifts towards the worst skill, zero_shot does not."""
  rows = []
  for step in range(steps):
    for image in rng.choice(images, 3, replace=False):
      for response in range(4):
        drift = step / steps if method == "grpo" else 0.0
        if split == "heldout" and method == "grpo":
          drift = 1.0
        share = np.array([0.4, 0.2, 0.1, 0.3]) * (1 - drift)
        share[2] += drift
        skill = str(rng.choice(list(QUESTIONS), p=share / share.sum()))
        status = str(rng.choice(["ok", "unparsed", "unscored"], p=[0.95, 0.03, 0.02]))
        valid = bool(rng.random() < 0.8) if status == "ok" else None
        correct = bool(rng.random() > FAILS[skill]) if status == "ok" else None
        question = QUESTIONS[skill].format(rng.choice(THINGS))
        question = "" if status == "unparsed" else question
        rows.append(
          {
            "method": method,
            "split": split,
            "step": step,
            "image_id": str(image),
            "response_index": response,
            "slot": 0,
            "question": question,
            "answer": None if status == "unparsed" else "red" if correct else "green",
            "valid": valid,
            "correct": correct,
            **dict.fromkeys(("grammatical", "atomic", "grounded", "objective"), valid),
            "status": status,
            "rationale": "the oracle says so",
            "truth": "red" if valid else None,
            "skills": [skill, "existence"] if skill == "color" else [skill],
            "cells": [f"{skill}/color=red"] if valid else None,
            "prefix": " ".join(question.lower().split()[:2]),
          }
        )
  return rows


def embed(texts):
  seeds = [int(hashlib.sha256(t.encode()).hexdigest()[:8], 16) for t in texts]
  return np.stack([np.random.default_rng(s).normal(size=16) for s in seeds])


def to_record(row, run_id):
  judged = row["status"] == "ok"
  reward = float(row["valid"] and not row["correct"]) if judged else None
  own = {k: v for k, v in row.items() if k not in ("truth", "skills", "cells")}
  return Record(
    run_id=run_id,
    group_id=f"{row['step']}-{row['image_id']}",
    delta_emb=0.5 if judged else None,
    delta_ifreq=0.5 if judged else None,
    reward=reward,
    response_reward=reward,
    advantage=0.0,
    questioner_step=row["step"],
    answerer="tiny",
    verifier="oracle",
    wall_time=float(row["step"]),
    **own,
  )


def make_workdir(folder, steps=60, seed=0):
  """Writes everything; returns the evaluation rows of all methods and splits."""
  folder, rng = pathlib.Path(folder), np.random.default_rng(seed)
  manifest = records.write_manifest(
    folder,
    config={"steps": steps, "methods": ["zero_shot", "grpo"], "note": "<b>&amp;</b>"},
    seeds={"seed": seed},
    models={
      "answerer": "testbed/answerer",
      "verifier": "oracle",
      "evaluator": "oracle",
    },
    prompts={"questioner": "1"},
    argv=["discover", "--config=configs/quickstart.py"],
  )
  sources = {
    s: data.open(f"testbed://?split={s}&size=20") for s in ("train", "heldout")
  }
  for source in sources.values():
    for example in source:
      records.write_image(folder, example)
  found, summaries = [], {}
  for method in ("zero_shot", "grpo"):
    log = records.Measurements(folder, method)
    for step in range(steps):
      log.write(step, {"reward/mean": step / 9, "grpo/kl": None if step < 2 else 0.1})
    for split, protocol in (("train", "during"), ("heldout", "after")):
      images = [example.image_id for example in sources[split]]
      rows = rows_of(method, split, steps if split == "train" else 30, images, rng)
      for step in sorted({row["step"] for row in rows}):
        own = [to_record(r, manifest["run_id"]) for r in rows if r["step"] == step]
        records.write_shard(folder, method, split, step, own)
      rows = pd.DataFrame(rows)
      name = method + ("_heldout" if split == "heldout" else "")
      records.write_parquet(folder / "evaluations" / f"{name}.parquet", rows)
      questions = rows.loc[metrics.flags(rows)["valid"], "question"].tolist()
      summary = metrics.summarise(rows, embed(questions), common_n=99, resamples=200)
      summary["planted"] = metrics.planted_truth(rows, CENSUS)
      summaries.setdefault(method, {})[protocol] = summary
      found.append(rows)
  own = [rows for rows in found if (rows["split"] == "heldout").all()]
  ratio = metrics.compare(own[1], own[0], "fdr", resamples=200)
  comparison = {"grpo": {"after": {"fdr": ratio}}}
  content = {"methods": summaries, "comparison": comparison}
  (folder / "metrics.json").write_text(json.dumps(content))
  return pd.concat(found, ignore_index=True)


SKILLS = {  # of the oracle -> of the taxonomy, its meta-skill, phrases and counts
  "color": ("naming colours", "attributes", {"colour of a shape": 9}),
  "counting_all": ("counting things", "numbers", {"how many there are": 4}),
  "ocr": (
    "reading letters",
    "attributes",
    {"the letter shown": 3, "letter on a shape": 7},
  ),
}


def make_taxonomy(folder):
  """Writes `taxonomy/` over the evaluations of a workdir, as `launch.taxonomy` does."""
  folder = pathlib.Path(folder)
  rows = pd.concat(map(pd.read_parquet, (folder / "evaluations").glob("*.parquet")))
  primitives, assigned = [], []
  for topic, (own, (skill, meta, phrases)) in enumerate(SKILLS.items()):
    for phrase, count in phrases.items():
      primitives.append([len(primitives), phrase, count, topic, skill])
    needing = rows[[own in some for some in rows["skills"]]]
    key = ["method", "split", "step", "image_id", "response_index", "slot", "question"]
    extra = {"primitive_id": len(primitives) - 1, "skill": skill, "meta_skill": meta}
    assigned.append(needing[key].assign(**extra))
  tables = {
    "primitives": pd.DataFrame(
      primitives, columns=["primitive_id", "phrase", "count", "topic", "skill"]
    ),
    "skills": pd.DataFrame(
      {
        "skill": [skill for skill, _, _ in SKILLS.values()],
        "topic": [[0], [1], [2]],
        "meta_skill": [meta for _, meta, _ in SKILLS.values()],
        "primitives": [len(phrases) for _, _, phrases in SKILLS.values()],
        "questions": [len(own) for own in assigned],
      }
    ),
    "meta_skills": pd.DataFrame(
      {
        "meta_skill": ["numbers", "attributes"],
        "description": ["how many", "what things look like"],
        "skills": [["counting things"], ["naming colours", "reading letters"]],
      }
    ),
    "assignments": pd.concat(assigned, ignore_index=True),
  }
  (folder / "taxonomy").mkdir()
  for name, table in tables.items():
    records.write_parquet(folder / "taxonomy" / f"{name}.parquet", table)


def content(path):
  """What a page gives its browser of failures."""
  with open(path, encoding="utf-8") as file:
    text = file.read()
  (found,) = re.findall(
    r'<script type="application/json" id="data">(.*?)</script', text
  )
  return json.loads(found)


def expected(rows):
  """The distinct failures by a plain loop: (method, image, question) -> times, step."""
  found = {}
  for row in rows.sort_values("step", kind="stable").to_dict("records"):
    if row["status"] == "ok" and row["valid"] is True and row["correct"] is False:
      key = row["method"], row["image_id"], row["question"]
      times, step = found.get(key, (0, row["step"]))
      found[key] = times + 1, step
  return found
