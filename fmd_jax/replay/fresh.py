"""Fresh answers of a model to the questions of a suite, judged."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from fmd_jax import answerer, evaluator
from fmd_jax.inference import Generator, own_seed
from fmd_jax.progress import Progress
from fmd_jax.types import ImageExample, Question

_PART = 128  # questions


class Asking(NamedTuple):
  """How a suite is asked: the same of every model.

  Attributes:
    asks: answers to each question.
    temperature: of the answers; above 0, or all of them would be one.
    answer_tokens: the longest answer.
    judge_tokens: the longest verdict.
    judge_retries: of a verdict that cannot be read.
    seed: of the answers: others with another seed.
  """

  asks: int
  temperature: float
  answer_tokens: int
  judge_tokens: int
  judge_retries: int
  seed: int


def ask(
  model: Generator,
  judge: Generator,
  questions: pd.DataFrame,
  images: Mapping[str, ImageExample],
  asking: Asking,
) -> pd.DataFrame:
  """Asks each question `asking.asks` times; returns `Suite.asks`.

  An answer is wrong where the judge finds the question valid and the answer not
  correct.

  Args:
    model: who answers.
    judge: who judges.
    questions: with id, image_id, question.
    images: image_id -> image.
    asking: how.
  """
  parts = []
  with Progress(total=len(questions), desc="ask", unit="question") as bar:
    for at in range(0, len(questions), _PART):
      part = questions.iloc[at : at + _PART]
      parts.append(_ask(model, judge, part, images, asking))
      bar.update(len(part))
  return pd.concat(parts, ignore_index=True)


def _ask(model, judge, questions, images, asking: Asking) -> pd.DataFrame:
  pairs, seeds, keys = [], [], []
  for row in questions.itertuples():
    pair = (images[row.image_id], Question(row.image_id, 0, 0, row.question))
    for place in range(asking.asks):
      pairs.append(pair)
      seeds.append(own_seed(asking.seed, row.id))
      keys.append((row.id, place))
  answers = answerer.ask(
    model,
    pairs,
    max_tokens=asking.answer_tokens,
    temperature=asking.temperature,
    seed=seeds,
  )
  verdicts = evaluator.judge(
    judge,
    [(*pair, answer) for pair, answer in zip(pairs, answers, strict=True)],
    max_tokens=asking.judge_tokens,
    retries=asking.judge_retries,
  )
  wrong = [
    None if v.status != "ok" else bool(v.valid) and not v.correct for v in verdicts
  ]
  return pd.DataFrame(
    {
      "id": [key for key, _ in keys],
      "ask": [place for _, place in keys],
      "answer": [a.text if a.status == "ok" else None for a in answers],
      "status": [verdict.status for verdict in verdicts],
      "wrong": pd.array(wrong, dtype="boolean"),
      "why": [verdict.rationale for verdict in verdicts],
    }
  )
