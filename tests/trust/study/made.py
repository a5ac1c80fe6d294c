"""A small judged run of the embedded world, whose truth is known."""

import random

import numpy as np

from fmd_jax import records
from fmd_jax.trust.scoring import KEY
from fmd_jax.world import drawing, invalid, oracle, png, questions, scenes
from tests.records.shards_test import record

METHODS = ("grpo", "zero_shot")
CANARY = "rationale-that-nobody-may-see"


def make_run(folder, *, images=6, each=12, flip=False, texts=None):
  """Writes records, evaluations and pictures of two methods.

  Args:
    folder: the workdir.
    images, each: pictures of a method, questions about each, a third of them invalid.
    flip: turns every verdict of the evaluator around.
    texts: questions in place of the world's, in turn.

  Returns:
    The evaluations of all methods with true_valid and true_correct, by method.
  """
  out = {}
  for method in METHODS:
    rng = random.Random(method)
    rows, truth = [], []
    for step in range(images):
      scene = scenes.sample_scene(rng)
      image = f"{method}-train-{step}"
      picture = png.encode(drawing.render(scene), scene)
      (folder / "images").mkdir(parents=True, exist_ok=True)
      (folder / "images" / f"{image}.png").write_bytes(picture)
      for slot in range(each):
        if slot % 3:
          asked = questions.sample_question(rng, scene)
        else:
          asked = invalid.sample_invalid(rng, scene, rng.choice(invalid.INVALID_KINDS))
        answer = asked.verdict.answer if rng.random() < 0.5 else "mauve"
        text = texts[(step * each + slot) % len(texts)] if texts else asked.text
        right = oracle.judge_answer(asked.verdict, answer or "")
        truth.append((asked.verdict.valid, right, list(asked.verdict.skills)))
        rows.append(
          record(
            step=step, image=image, slot=slot, method=method, question=text,
            answer=answer or "mauve", valid=True, correct=True, rationale=CANARY,
          )
        )  # fmt: skip
      records.write_shard(folder, method, "train", step, rows[-each:])
    table = records.read(folder, method)
    valid, correct, skills = (np.array(x, dtype=object) for x in zip(*truth))
    valid, correct = valid.astype(bool), correct.astype(bool)
    judged = table.assign(
      evaluator="judge-of-the-study@1",
      valid=valid ^ flip,
      correct=correct ^ flip,
      skills=skills,
      truth="a-truth-that-nobody-may-see",
    ).astype({"valid": "boolean", "correct": "boolean"})
    records.write_parquet(folder / "evaluations" / f"{method}.parquet", judged)
    out[method] = judged.assign(true_valid=valid, true_correct=correct)
  return out


def item_truth(study, evaluations):
  """Item -> whether valid, whether right."""
  known = {
    tuple(row[name] for name in KEY): (row["true_valid"], row["true_correct"])
    for table in evaluations.values()
    for row in table.to_dict("records")
  }
  return {
    row["item"]: known[tuple(row[name] for name in KEY)]
    for row in study.key().to_dict("records")
  }
