"""The checks one after another, each of what stood the last; kept part by part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from absl import logging
from etils import epath

from fmd_jax import prompts, records
from fmd_jax.confirm import checks
from fmd_jax.confirm.checks import Check, Failure, Models, Outcome, Settings
from fmd_jax.confirm.failures import Found
from fmd_jax.evaluate import Cost, estimate
from fmd_jax.inference import identity
from fmd_jax.progress import Progress
from fmd_jax.types import ImageExample

# What leads from each tier to the next.
LADDER: tuple[dict[str, Check], ...] = (
  {"again": checks.misses_again},
  {"paraphrase": checks.misses_paraphrase},
  {"second_judge": checks.second_judge_agrees},
  {"needs_image": checks.needs_image, "unambiguous": checks.is_unambiguous},
)
CHECKS = tuple(name for step in LADDER for name in step)
_PART = 256  # failures between two files
_KEY = ["image_id", "question"]
_PROMPTS = ("answerer", "blind", "evaluator", "paraphraser")


def costs(
  workdir: epath.PathLike,
  rows: pd.DataFrame,
  settings: Settings,
  prices: Mapping[str, Sequence[float]],
) -> dict[str, Cost]:
  """Role -> what it is asked at most: if every failure stands every check.

  Args:
    workdir: with the images.
    rows: image_id, question, answer of the failures.
    settings: how often each is asked.
    prices: role -> US dollars for a million tokens read, and written; 0 is unknown.
  """
  keys = list(rows[["image_id", "question", "answer"]].itertuples(index=False))
  answers = 2 + settings.samples
  calls = {
    "answerer": answers + settings.guesses,
    # Also its own answer, twice, a verdict on it and on the second judge's, and whether
    # the other words ask the same.
    "evaluator": answers + settings.guesses + 5,
    "second_judge": 3,
    "paraphraser": 1,
  }
  # A verdict's prompt is the longest, and so is its reply: nobody needs more.
  return {
    role: _times(estimate(workdir, keys, prices.get(role, (0.0, 0.0))), number)
    for role, number in calls.items()
  }


def _times(cost: Cost, number: int) -> Cost:
  usd = None if cost.usd is None else cost.usd * number
  counts = (cost.calls, cost.input_tokens, cost.output_tokens)
  return Cost(*(count * number for count in counts), usd)


def confirm(
  workdir: epath.PathLike,
  found: Found,
  models: Models,
  settings: Settings,
  *,
  sample: int = 0,
  seed: int = 0,
  tell: Callable[[str], None] = logging.info,
) -> records.Confirmed:
  """Asks failures again, and writes confirmed.parquet and confirmed.json.

  Called again, after a kill or with a larger sample, it asks of what is missing, and of
  what was unscored. With other models, prompts or settings it starts anew.

  Args:
    workdir: of the run.
    found: of `choose`.
    models: who is asked.
    settings: how.
    sample: how many failures were to be drawn; 0 is all.
    seed: of that draw.
    tell: is given a sentence on what was there already.

  Raises:
    ValueError: the second judge is the first.
    BudgetError: of a model; what was asked is kept.
  """
  if models.second and identity(models.second) == identity(models.judge):
    raise ValueError(
      f"the second judge is the evaluator, {identity(models.judge)}: it would only "
      "agree with itself; name another model, or none"
    )
  known = _settings(models, settings)
  statement = {
    "settings": known,
    "sample": sample or None,
    "seed": seed,
    "thresholds": found.thresholds,
    "failures": found.total,
  }
  kept = _kept(workdir, known, tell)
  key = list(found.rows[_KEY].itertuples(index=False, name=None))
  left = found.rows[[pair not in kept for pair in key]]
  tell(f"{len(found.rows) - len(left):,} of {len(found.rows):,} failures are done")
  done = [kept[pair] for pair in key if pair in kept]
  with Progress(total=len(left), desc="confirm", unit="failure") as bar:
    for at in range(0, len(left), _PART):
      part = left.iloc[at : at + _PART]
      done += _climb(workdir, part, models, settings)
      records.write_confirmed(workdir, _confirmed(done, statement))
      bar.update(len(part))
  out = _confirmed(done, statement)
  records.write_confirmed(workdir, out)
  return out


def _settings(models: Models, settings: Settings) -> dict[str, Any]:
  names = {
    role: None if model is None else identity(model)
    for role, model in models._asdict().items()
  }
  versions = {role: prompts.version(role) for role in _PROMPTS}
  rule = "greedy wrong, and at least half of the samples"
  return {
    "models": names,
    "prompts": versions,
    "again": rule,
    **settings._asdict(),
  }


def _kept(workdir, known, tell) -> dict[tuple[str, str], dict[str, Any]]:
  """What an earlier call found out by the same means, all of it scored."""
  before = records.read_confirmed(workdir)
  if before is None:
    return {}
  if before.statement["settings"] != known:
    tell("confirmed.parquet was made by other models or settings: it is made anew")
    return {}
  rows = before.table[~before.table["open"]].to_dict("records")
  return {(row["image_id"], row["question"]): row for row in rows}


def _climb(workdir, rows: pd.DataFrame, models, settings) -> list[dict[str, Any]]:
  """Rows of the table, one a failure."""
  folder = epath.Path(workdir) / "images"
  images = {
    image_id: ImageExample(image_id, (folder / f"{image_id}.png").read_bytes())
    for image_id in rows["image_id"].unique()
  }
  failures, out = [], []
  for row in rows.itertuples():
    truth = row.truth if isinstance(row.truth, str) else ""
    failures.append(Failure(images[row.image_id], row.question, row.answer, truth))
    out.append(
      {
        "image_id": row.image_id,
        "question": row.question,
        "answer": row.answer,
        "truth": truth or None,
        "tier": 1,
        "open": False,
        **dict.fromkeys(CHECKS, checks.NOT_REACHED),
        **dict.fromkeys(("again_wrong", "again_asked"), None),
        **dict.fromkeys(("paraphrased", "paraphrase_answer"), None),
        "why": "",
      }
    )
  standing = list(range(len(failures)))
  for step in LADDER:
    results: dict[str, list[Outcome]] = {
      name: check(models, settings, [failures[i] for i in standing])
      for name, check in step.items()
    }
    left = []
    for place, i in enumerate(standing):
      for name, outcomes in results.items():
        _note(out[i], name, outcomes[place])
      verdicts = [outcomes[place].verdict for outcomes in results.values()]
      if all(verdict == checks.PASSED for verdict in verdicts):
        out[i]["tier"] += 1
        left.append(i)
      # One that failed settles it, whatever the other would say.
      elif checks.FAILED not in verdicts:
        out[i]["open"] = True
    standing = left
  return out


def _note(row: dict[str, Any], name: str, outcome: Outcome) -> None:
  row[name] = outcome.verdict
  row |= outcome.columns
  row["why"] += f"{name}: {outcome.why}\n"


def _confirmed(rows, statement) -> records.Confirmed:
  table = pd.DataFrame(rows)
  for name in ("again_wrong", "again_asked"):
    table[name] = table[name].astype("Int64")
  return records.Confirmed(table, statement)
