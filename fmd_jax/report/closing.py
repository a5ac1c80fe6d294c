"""The last words of a run on a terminal: what it found, and where to read on."""

import pandas as pd
from etils import epath

from fmd_jax.report import failures
from fmd_jax.report.reading import read_run
from fmd_jax.report.status import said

_GROUPS = 5


def closing(workdir: epath.PathLike) -> str:
  """The worst groups of questions with a failure of each, and the files of the run.

  Args:
    workdir: of a finished run.

  Raises:
    FileNotFoundError: it holds no run.
  """
  run = read_run(workdir)
  model = run.manifest.get("models", {}).get("answerer", "the model")
  lines = []
  rows = failures.distinct_valid(run.evaluations) if len(run.evaluations) else []
  noun = "skill" if len(rows) and failures.knows_skills(rows) else "first words"
  used: set[str] = set()
  for group in failures.ranked(rows).to_dict("records") if len(rows) else ():
    example = failures.examples(rows, group["skill"], 1, used)
    if len(lines) == 2 * _GROUPS or not len(example):
      continue
    bounds = ""
    if pd.notna(group["estimate_low"]) and pd.notna(group["estimate_high"]):
      low, high = 100 * group["estimate_low"], 100 * group["estimate_high"]
      bounds = f" [{low:.0f}, {high:.0f}]"
    rate = f"{100 * group['estimate']:.0f} % wrong{bounds}"
    (row,) = example.to_dict("records")
    truth = row.get("truth")
    truth = f"; true: {said(truth)}" if isinstance(truth, str) else ""
    answer = f"It says: {said(row['answer'])}{truth} ({row['image_id']})"
    lines += [f"  {group['skill']}: {rate}", f"    {said(row['question'])} {answer}"]
  if lines:
    lines.insert(0, f"What {model} gets wrong most, by {noun}, with a failure of each:")
  else:
    lines = [f"No failure of {model} was found."]
  folder = run.folder
  lines += [
    f"Numbers: {folder / 'metrics.json'}; every question: {folder / 'records'}",
    f"Curves: tensorboard --logdir {folder / 'tensorboard'}",
    f"Report: {folder / 'report' / 'index.html'}",
  ]
  return "\n".join(lines)
