"""What a run would do and ask for, before anything is started or paid."""

import urllib.parse

import ml_collections

from fmd_jax import inference

_UPDATES = {
  "zero_shot": "0",
  "conme": "0",
  "sft": "{sft}",
  "expert_iteration": "{rounds} rounds",
  "grpo": "{steps}",
  "sft_then_grpo": "{sft} + {steps}",
}


def describe(config: ml_collections.ConfigDict) -> str:
  """The plan of a config as text: models, images, questions, calls.

  Calls are upper bounds without retries: within a step, copies of a question about an
  image are answered and judged once. Nothing is opened: the number of unseen images is
  what the spec says of it.

  Raises:
    ValueError: a role is no model spec.
  """
  k, per_image = config.questions_per_image, config.group_size
  per_image *= k
  step = config.images_per_step * per_image
  asked = config.steps * step
  unseen = _size(config.data.heldout)
  # Whole batches only, as `ask_heldout` makes them.
  rest = (unseen or 0) % max(min(config.images_per_step, unseen or 1), 1)
  seen = (unseen or 0) - rest
  lines = [f"methods       {', '.join(config.methods)}, one after another"]
  for role, spec in config.roles.items():
    inference.is_remote(spec)
    lines.append(f"{role:<13} {spec}")
  lines += [
    f"images        {config.data.train}; unseen: {config.data.heldout}",
    f"questions     {config.steps:,} steps x {config.images_per_step} images x "
    f"{config.group_size} responses x {k} = {asked:,} by each method, then "
    f"{per_image} about each unseen image",
    "",
  ]
  rows = [("method", "updates", "questions", "answerer", "verifier", "evaluator")]
  total = [0] * 4
  for method in config.methods:
    questions = asked + seen * per_image
    answers = questions
    if method == "conme" and config.conme.describe:
      answers += config.steps * config.images_per_step + seen
    most = config.evaluation.sample or questions
    during = min(asked, min(most, asked) + _looks(config, method))
    judged = during + min(most, seen * per_image)
    numbers = [questions, answers, questions, judged]
    total = [a + b for a, b in zip(total, numbers, strict=True)]
    rows.append((method, _updates(config, method), *(f"{n:,}" for n in numbers)))
  rows.append(("all", "", *(f"{n:,}" for n in total)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
    cells += [cell.rjust(w) for cell, w in zip(row[2:], widths[2:], strict=True)]
    lines.append("  ".join(cells).rstrip())
  tokens = config.sampling.max_new_tokens * total[0] // k
  lines += [
    f"Calls at most, without retries. The questioner says at most {tokens:,} tokens,",
    f"an answer has at most {config.answerer.max_tokens}.",
  ]
  if unseen is None:
    lines.append("The unseen images are not counted: their spec has no size or limit.")
  return "\n".join(lines)


def _looks(config: ml_collections.ConfigDict, method: str) -> int:
  """Rows that the monitor shows to the evaluator; the evaluation may draw others."""
  own, roles = config.monitor, config.roles
  if not own.every or roles.verifier == roles.evaluator or "grpo" not in method:
    return 0
  return config.steps // own.every * own.rows


def _updates(config: ml_collections.ConfigDict, method: str) -> str:
  return _UPDATES[method].format(
    sft=f"{config.sft.epochs:g} epochs",
    rounds=config.expert_iteration.rounds,
    steps=f"{config.steps:,}",
  )


def _size(spec: str) -> int | None:
  """How many images a data spec promises, if it does."""
  query = dict(urllib.parse.parse_qsl(spec.partition("?")[2]))
  number = query.get("size", query.get("limit", ""))
  return int(number) if number.isdecimal() else None
