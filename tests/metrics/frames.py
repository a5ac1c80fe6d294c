"""Made-up rows for the metrics' tests."""

import numpy as np
import pandas as pd

OPENERS = ["What is", "How many", "Is the", "Which", "Where are"]
SKILLS = ["colour", "counting", "shape", "spatial", "text"]


def frame(seed=0, images=40, each=12, fdr=0.4, prefix="i", spread=True):
  """Rows whose images differ in how often they fool the target."""
  generator = np.random.default_rng(seed)
  rows = []
  for i in range(images):
    odds = generator.beta(2 * fdr, 2 * (1 - fdr)) if spread else fdr
    for _ in range(generator.integers(1, 2 * each)):
      status = generator.choice(["ok"] * 8 + ["unparsed", "unscored"])
      valid = bool(generator.random() < 0.8) if status == "ok" else None
      correct = bool(generator.random() > odds) if status == "ok" else None
      opener = generator.choice(OPENERS, p=[0.5, 0.25, 0.15, 0.05, 0.05])
      skills = generator.choice(SKILLS, generator.integers(0, 4)).tolist()
      rows.append(
        {
          "image_id": f"{prefix}{i}",
          "status": str(status),
          "question": f"{opener} {generator.integers(3)} thing?",
          "valid": valid,
          "correct": correct,
          "skills": skills if valid else None,
        }
      )
  df = pd.DataFrame(rows)
  return df.astype({"valid": "boolean", "correct": "boolean"})


def one(image="i", valid=True, correct=False, status="ok", question="What is it?"):
  return {
    "image_id": image,
    "status": status,
    "question": question,
    "valid": valid,
    "correct": correct,
  }
