"""The checks that a failure has to stand, one function each: N failures -> N outcomes.

A check that could not be made (a model or a judge failed, or left its grammar) is
unscored: neither passed nor failed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fmd_jax import answerer, evaluator, verifier
from fmd_jax.inference import Generator, own_seed
from fmd_jax.taxonomy import asking
from fmd_jax.types import Answer, ImageExample, Question, Verdict

PASSED, FAILED, UNSCORED, NOT_REACHED = "passed", "failed", "unscored", "not reached"


@dataclasses.dataclass(frozen=True)
class Failure:
  """A question that was answered wrongly.

  Attributes:
    answer: the wrong one.
    truth: where the picture tells; "" where nobody knows.
  """

  image: ImageExample
  question: str
  answer: str
  truth: str = ""


class Models(NamedTuple):
  """Who is asked; `second` judges as `judge` does, and is another model or None."""

  answerer: Generator
  judge: Generator
  second: Generator | None
  paraphraser: Generator


class Settings(NamedTuple):
  """How they are asked.

  Attributes:
    samples: answers sampled beside the greedy one.
    temperature: of the samples.
    guesses: answers without the image.
    answer_tokens: the longest answer.
    max_tokens: the longest verdict.
    retries: of a verdict that cannot be read.
    seed: of the samples.
  """

  samples: int
  temperature: float
  guesses: int
  answer_tokens: int
  max_tokens: int
  retries: int
  seed: int


class Outcome(NamedTuple):
  """What a check found; `columns` are what it adds to the table."""

  verdict: str
  why: str = ""
  columns: dict[str, Any] = {}


Check = Callable[[Models, Settings, Sequence[Failure]], list[Outcome]]


def misses_again(models: Models, settings: Settings, failures) -> list[Outcome]:
  """Passed: the greedy answer is wrong, and at least half of the samples are."""
  n = 1 + settings.samples
  greedy = _ask(models.answerer, settings, failures)
  sampled = _ask(
    models.answerer,
    settings,
    [failure for failure in failures for _ in range(settings.samples)],
    temperature=settings.temperature,
  )
  answers, of = [], []
  for i, failure in enumerate(failures):
    own = [greedy[i], *sampled[i * settings.samples : (i + 1) * settings.samples]]
    answers += own
    of += [failure] * n
  wrong = [_wrong(v) for v in _judge(models.judge, settings, of, answers)]
  return [_again(wrong[at : at + n]) for at in range(0, len(wrong), n)]


def _again(wrong: Sequence[bool | None]) -> Outcome:
  first, *rest = wrong
  sure, open_ = sum(w is True for w in rest), sum(w is None for w in rest)
  if first is False or 2 * (sure + open_) < len(rest):
    verdict = FAILED
  elif first is None or 2 * sure < len(rest):
    verdict = UNSCORED
  else:
    verdict = PASSED
  greedy = {True: "wrong", False: "right", None: "unscored"}[first]
  why = f"greedy {greedy}, {sure} of {len(rest)} samples wrong"
  why += f", {open_} unscored" if open_ else ""
  asked = [w for w in wrong if w is not None]
  return Outcome(verdict, why, {"again_wrong": sum(asked), "again_asked": len(asked)})


def misses_paraphrase(models: Models, settings: Settings, failures) -> list[Outcome]:
  """Passed: the greedy answer to the question in other words is wrong too.

  The judge has to find that the true answer is right for the other words; else they ask
  something else, and the check is unscored.
  """
  said = asking.paraphrase(
    models.paraphraser,
    [failure.question for failure in failures],
    max_tokens=settings.max_tokens,
    retries=settings.retries,
  )
  truths = true_answers(models.judge, settings, failures)
  out: list[Outcome | None] = [None] * len(failures)
  fit = []
  for i, (failure, found, truth) in enumerate(zip(failures, said, truths)):
    if found.value is None:
      out[i] = Outcome(UNSCORED, f"no paraphrase: {found.error}")
    elif found.value.casefold() == failure.question.casefold():
      out[i] = Outcome(UNSCORED, "no paraphrase: the same words")
    elif truth.status != "ok":
      out[i] = Outcome(UNSCORED, f"the true answer is not known: {truth.error}")
    else:
      fit.append(i)
  other = [dataclasses.replace(failures[i], question=said[i].value) for i in fit]
  same = _judge(models.judge, settings, other, [truths[i] for i in fit])
  answers = _ask(models.answerer, settings, other)
  judged = _judge(models.judge, settings, other, answers)
  for i, failure, whether, answer, verdict in zip(fit, other, same, answers, judged):
    columns = {"paraphrased": failure.question, "truth": truths[i].text}
    columns["paraphrase_answer"] = answer.text if answer.status == "ok" else None
    if not (whether.valid and whether.correct):
      why = "no verdict" if whether.status != "ok" else "it asks something else"
      out[i] = Outcome(UNSCORED, f"{failure.question!r}: {why}", columns)
    else:
      why = f"{failure.question!r} answered {answer.text!r}"
      out[i] = Outcome(_is(_wrong(verdict)), why, columns)
  return out


def second_judge_agrees(models: Models, settings: Settings, failures) -> list[Outcome]:
  """Passed: another judge finds the question valid and the answer wrong too."""
  if models.second is None:
    return [Outcome(UNSCORED, "there is no second judge")] * len(failures)
  answers = [Answer(failure.answer, "") for failure in failures]
  judged = _judge(models.second, settings, failures, answers)
  return [Outcome(_is(_wrong(verdict)), _why(verdict)) for verdict in judged]


def needs_image(models: Models, settings: Settings, failures) -> list[Outcome]:
  """Passed: at least one of the answers guessed without the image is wrong."""
  items = [_item(failure, Answer(failure.answer, "")) for failure in failures]
  judged = verifier.judge_guesses(
    models.answerer,
    models.judge,
    items,
    guesses=settings.guesses,
    answer_tokens=settings.answer_tokens,
    max_tokens=settings.max_tokens,
    retries=settings.retries,
    seed=settings.seed,
  )
  out = []
  for own in judged:
    right = [v.correct if v.status == "ok" else None for v in own]
    why = f"{sum(r is True for r in right)} of {len(right)} guesses right"
    if any(r is False for r in right):
      out.append(Outcome(PASSED, why))
    else:
      out.append(Outcome(UNSCORED if None in right else FAILED, why))
  return out


def is_unambiguous(models: Models, settings: Settings, failures) -> list[Outcome]:
  """Passed: two judges answer alike: the same text, or each finds the other's right."""
  if models.second is None:
    return [Outcome(UNSCORED, "there is no second judge")] * len(failures)
  first, second = (
    _ask(judge, settings, failures, tokens=settings.max_tokens, task="answer")
    for judge in (models.judge, models.second)
  )
  own = _judge(models.judge, settings, failures, second)
  others = _judge(models.second, settings, failures, first)
  out = []
  for a, b, by_first, by_second in zip(first, second, own, others):
    why = f"the judges say {a.text!r} and {b.text!r}"
    if "unscored" in (a.status, b.status):
      out.append(Outcome(UNSCORED, f"no answer: {a.error or b.error}"))
    elif a.text.casefold().strip(" .") == b.text.casefold().strip(" ."):
      out.append(Outcome(PASSED, why))
    elif "unscored" in (by_first.status, by_second.status):
      out.append(Outcome(UNSCORED, f"{why}; no verdict on these"))
    else:
      same = by_first.correct and by_second.correct
      out.append(Outcome(PASSED if same else FAILED, why))
  return out


def true_answers(
  judge: Generator, settings: Settings, failures: Sequence[Failure]
) -> list[Answer]:
  """The truth of each failure: the picture's, or the judge's own answer.

  The latter only where the judge, asked about it as about any answer, finds it right;
  else "unscored".
  """
  out = [Answer(failure.truth, "") for failure in failures]
  missing = [i for i, failure in enumerate(failures) if not failure.truth]
  asked = [failures[i] for i in missing]
  own = _ask(judge, settings, asked, tokens=settings.max_tokens, task="answer")
  judged = _judge(judge, settings, asked, own)
  for i, answer, verdict in zip(missing, own, judged, strict=True):
    if answer.status == "ok" and not (verdict.valid and verdict.correct):
      why = "the judge does not hold its own answer for right"
      answer = dataclasses.replace(answer, status="unscored", error=why)
    out[i] = answer
  return out


def _ask(
  generator: Generator,
  settings: Settings,
  failures: Sequence[Failure],
  *,
  temperature: float = 0.0,
  tokens: int = 0,
  task: str = "",
) -> list[Answer]:
  return answerer.ask(
    generator,
    [_item(failure, None)[:2] for failure in failures],
    max_tokens=tokens or settings.answer_tokens,
    temperature=temperature,
    seed=[
      own_seed(settings.seed, f"{failure.image.image_id}/{failure.question}")
      for failure in failures
    ],
    task=task,
  )


def _judge(judge, settings: Settings, failures, answers) -> list[Verdict]:
  return evaluator.judge(
    judge,
    [_item(failure, answer) for failure, answer in zip(failures, answers, strict=True)],
    max_tokens=settings.max_tokens,
    retries=settings.retries,
  )


def _item(failure: Failure, answer):
  question = Question(failure.image.image_id, 0, 0, failure.question)
  return failure.image, question, answer


def _wrong(verdict: Verdict) -> bool | None:
  """Whether it is a failure: valid and wrong. None: there is no verdict."""
  if verdict.status != "ok":
    return None
  return bool(verdict.valid) and not verdict.correct


def _is(wrong: bool | None) -> str:
  return {True: PASSED, False: FAILED, None: UNSCORED}[wrong]


def _why(verdict: Verdict) -> str:
  if verdict.status != "ok":
    return verdict.rationale
  if not verdict.valid:
    return "it finds the question invalid"
  return f"it finds the answer {'right' if verdict.correct else 'wrong'}"
