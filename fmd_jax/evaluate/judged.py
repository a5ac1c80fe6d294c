"""The evaluator's verdicts on the records, as evaluations/*.parquet."""

import json
from collections.abc import Callable, Sequence

import pandas as pd
from absl import logging
from etils import epath

from fmd_jax import evaluator, prompts
from fmd_jax.evaluate.plan import Cost, Key, Plan, estimate
from fmd_jax.evaluate.verdicts import Verdicts
from fmd_jax.inference import Generator, identity
from fmd_jax.progress import Progress
from fmd_jax.records.files import write_atomic
from fmd_jax.records.writer import write_parquet
from fmd_jax.types import CRITERIA, Answer, ImageExample, Question, Verdict
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.png import scene_of

_KEPT = [
  "method", "split", "step", "image_id", "response_index", "slot", "question",
  "prefix", "answer", "place",
]  # fmt: skip
_PART = 512  # distinct questions between two files
EXACT = "oracle@"  # identity of the testbed's judge without noise: it is the truth


class Remembering:
  """A judge with the verdicts that it has given in a workdir: none is asked for twice.

  Args:
    workdir: of the run; the pictures are in it when they are judged.
    judge: the evaluator.
    max_tokens: longest verdict.
    retries: of a verdict that doesn't parse.
  """

  def __init__(
    self, workdir: epath.PathLike, judge: Generator, *, max_tokens: int, retries: int
  ):
    self._workdir, self._judge = epath.Path(workdir), judge
    self._limits = {"max_tokens": max_tokens, "retries": retries}
    known = {"judge": identity(judge), "prompt": prompts.version("evaluator")}
    self.verdicts = Verdicts(workdir, known | self._limits)

  def unknown(self, keys: Sequence[Key]) -> list[Key]:
    """Those without a verdict, each once."""
    return [key for key in dict.fromkeys(keys) if key not in self.verdicts]

  def __call__(self, keys: Sequence[Key]) -> list[Verdict]:
    """A verdict on each (image, question, answer), in order; new ones are kept."""
    left = self.unknown(keys)
    if left:
      items = [_item(self._workdir, key) for key in left]
      self.verdicts.add(left, evaluator.judge(self._judge, items, **self._limits))
    return [self.verdicts[key] for key in keys]


def evaluate(
  workdir: epath.PathLike,
  judge: Generator,
  plan: Plan,
  *,
  max_tokens: int,
  retries: int,
  price: Sequence[float] = (0.0, 0.0),
  allow: Callable[[Cost], None] = lambda cost: None,
  tell: Callable[[str], None] = logging.info,
) -> None:
  """Judges recorded questions and answers again, by another model.

  Each distinct (image, question, answer) is judged once. Verdicts are kept part by
  part: called again, after a kill or with a larger sample, it asks only for what is
  missing, and for what was unscored. Writes `evaluations/<method>[_heldout].parquet`
  and `evaluations/plan.json`. A scene inside a testbed picture adds the true answer,
  the skills and the cells of each question.

  Args:
    workdir: of a run with records.
    judge: the evaluator.
    plan: of `make_plan`.
    max_tokens: longest verdict.
    retries: of a verdict that doesn't parse.
    price: US dollars for a million tokens that the judge reads, and writes.
    allow: raises when the cost is too high; called before anything is asked.
    tell: is given the cost as text, first of all.

  Raises:
    BudgetError: of the judge, which may spend no more; what was judged is kept.
  """
  workdir = epath.Path(workdir)
  remembering = Remembering(workdir, judge, max_tokens=max_tokens, retries=retries)
  keys = plan.keys()
  left = remembering.unknown(keys)
  cost = estimate(workdir, left, price)
  _warn_if_not_independent(identity(judge), plan)
  of = f"a sample of {plan.rows:,}" if plan.sample else "all"
  tell(
    f"{identity(judge)} judges {of} of {sum(plan.asked.values()):,} questions, "
    f"{len(keys):,} distinct, {len(keys) - len(left):,} of them judged before: {cost}"
  )
  allow(cost)
  with Progress(total=len(left), desc="evaluate", unit="question") as bar:
    for at in range(0, len(left), _PART):
      bar.update(len(remembering(left[at : at + _PART])))
  for name, rows in plan.tables.items():
    _write(workdir, name, rows, remembering.verdicts, identity(judge))
  statement = {
    "evaluator": identity(judge),
    "sample": plan.sample or None,
    "seed": plan.seed,
    "asked": plan.asked,
    "judged": {name: len(rows) for name, rows in plan.tables.items()},
  }
  text = json.dumps(statement, indent=2) + "\n"
  write_atomic(workdir / "evaluations" / "plan.json", text.encode())


def _warn_if_not_independent(judge: str, plan: Plan) -> None:
  """A judge that made the reward has been played to."""
  verifiers = {v for rows in plan.tables.values() for v in rows["verifier"].unique()}
  if judge in verifiers and not judge.startswith(EXACT):
    logging.warning(
      "the evaluator, %s, is the verifier that questions were trained on: its numbers "
      "can't show what the questioner learned to get past it",
      judge,
    )


def _item(workdir, key: Key) -> tuple[ImageExample, Question, Answer]:
  image_id, question, answer = key
  image = ImageExample(image_id, _png(workdir, image_id))
  return image, Question(image_id, 0, 0, question), Answer(answer, "")


def _png(workdir, image_id: str) -> bytes:
  return (workdir / "images" / f"{image_id}.png").read_bytes()


def _write(workdir, name: str, rows: pd.DataFrame, verdicts: Verdicts, judge) -> None:
  def verdict(image_id, question, answer) -> Verdict:
    if not question:
      return Verdict("unparsed", rationale="no question", model=judge)
    if not isinstance(answer, str):
      why = "no answer: no answer was recorded"
      return Verdict("unscored", rationale=why, model=judge)
    return verdicts[image_id, question, answer]

  asked = zip(rows["image_id"], rows["question"], rows["answer"])
  own = [verdict(*row) for row in asked]
  table = rows[_KEPT].copy()
  table["status"] = [v.status for v in own]
  for column in (*CRITERIA, "valid", "correct"):
    values = [getattr(v, column) for v in own]
    table[column] = pd.array(values, dtype="boolean")
  table["rationale"] = [v.rationale for v in own]
  table["evaluator"] = [v.model for v in own]
  table["evaluator_prompt"] = prompts.version("evaluator")
  known: dict[tuple[str, str], tuple] = {}
  for image_id, question in zip(rows["image_id"], rows["question"]):
    if (image_id, question) not in known:
      known[image_id, question] = _annotate(workdir, image_id, question)
  truths = [known[pair] for pair in zip(rows["image_id"], rows["question"])]
  for column, values in zip(("truth", "skills", "cells"), zip(*truths)):
    table[column] = list(values)
  write_parquet(workdir / "evaluations" / f"{name}.parquet", table)


def _annotate(workdir, image_id: str, question: str) -> tuple:
  """True answer, skills and cells, where the picture carries its scene."""
  scene = scene_of(_png(workdir, image_id)) if question else None
  if scene is None:
    return None, None, None
  known = judge_question(question, scene)
  return known.answer, list(known.skills), list(known.cells)
