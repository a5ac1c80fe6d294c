"""Rows as `analysis.read` gives them, from a few columns."""

import pandas as pd


def rows(lines, **constant):
  """One row for each (image_id, question, skills, failure[, step])."""
  table = pd.DataFrame(
    [
      {
        "image_id": line[0],
        "question": line[1],
        "skills": list(line[2]),
        "failure": bool(line[3]),
        "step": line[4] if len(line) > 4 else at,
      }
      for at, line in enumerate(lines)
    ]
  )
  table["place"] = range(len(table))
  table["status"] = "ok"
  table["valid"] = True
  table["correct"] = ~table["failure"]
  table["meta_skills"] = table["skills"]
  table["filed"] = table["skills"].str[0]
  table["true_skills"] = table["skills"]
  table["prefix"] = table["question"].str.split().str[:2].str.join(" ")
  table["response_index"] = table["slot"] = 0
  own = {
    "workdir": "w",
    "method": "grpo",
    "split": "train",
    "arm": "grpo",
    "protocol": "during",
  }
  return table.assign(**(own | constant))
