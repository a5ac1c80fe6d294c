"""The answerer and the verifier at work, beside whoever waits for them."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fmd_jax import answerer, rewards, verifier
from fmd_jax.inference import Embedder, Generator, Reply, Request, protocol
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.types import Answer, ImageExample, Question, Verdict

T = TypeVar("T")
# Parts in the hands of one role at one time, where they need not wait for each other.
_AT_ONCE = 64
# Slots that are answered at once, at least: the verifier waits for so many.
_PART = 256
SPENT = tuple(f"{r}_{n}" for r in ("answerer", "verifier") for n in ("calls", "tokens"))


class Roles(NamedTuple):
  """The models that a rollout asks; the questioner has spoken already."""

  answerer: Generator
  verifier: Generator
  embedder: Embedder


@dataclasses.dataclass(frozen=True)
class Limits:
  """Longest answer and verdict in tokens, and how often a judge is asked.

  Attributes:
    answer_tokens, judge_tokens: longest replies.
    retries, votes, agreement: see `judging.judge`.
    guesses: of the text-only control, see `verifier.without_image`.
  """

  answer_tokens: int
  judge_tokens: int
  retries: int
  votes: int = 1
  agreement: float = 0.0
  guesses: int = 0


@dataclasses.dataclass(frozen=True)
class Judged:
  """This process's B images, G responses each, K slots each: judged, not yet scored.

  Attributes:
    slots: B·G·K triples in (image, response, slot) order.
    shape: (B, G).
    vectors: question -> [E] of those that the semantic term compares.
    seconds: time spent by stage.
    calls: what answerer and verifier were asked, by the names of `SPENT`: copies are
      one call, each retry is one; tokens written, where an engine tells.
  """

  slots: list[tuple[Question, Answer, Verdict]]
  shape: tuple[int, int]
  vectors: dict[str, np.ndarray]
  seconds: dict[str, float]
  calls: dict[str, int]


def join(parts: Sequence[Judged]) -> Judged:
  """Several as one, their images one after another, G and K the same in all.

  They were at work at the same time: of their seconds the most count.
  """
  shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
  return Judged(
    [slot for part in parts for slot in part.slots],
    shape,
    {text: vector for part in parts for text, vector in part.vectors.items()},
    {stage: max(p.seconds[stage] for p in parts) for stage in parts[0].seconds},
    {name: sum(part.calls[name] for part in parts) for name in SPENT},
  )


class Judges:
  """The answerer and the verifier at work beside their caller.

  Answers stream into the verifier part by part, and steps follow each other without a
  pause: one step's questions are answered while the one before it is judged. How they
  are cut into parts depends on the questions alone, never on time.
  """

  def __init__(self, roles: Roles, *, k: int, limits: Limits, ordered: bool = True):
    """Starts them.

    Args:
      roles: the models.
      k: K, the slots of a response.
      limits: of the models' replies.
      ordered: one part after another; else what is slow holds up nothing else.
    """
    self._roles, self._k, self._limits = roles, k, limits
    threads = 1 if ordered else _AT_ONCE
    self._answering = _Stage("answer", threads)
    self._verifying = _Stage("verify", threads)
    self._lock = threading.Lock()

  def hand(
    self,
    images: Sequence[ImageExample],
    responses: Sequence[Sequence[str]],
    *,
    terms: Sequence[str],
    seed: int,
  ) -> Future[Judged]:
    """Takes the responses of one step; returns at once.

    Args:
      images: B images.
      responses: [B][G] texts of the questioner.
      terms: the reward's; with "semantic", questions are embedded too.
      seed: of the models' sampling, where they sample.
    """
    questions = [
      Question(image.image_id, g, slot, text or "", "ok" if text else "unparsed")
      for image, group in zip(images, responses, strict=True)
      for g, response in enumerate(group)
      for slot, text in enumerate(parse_response(response, self._k))
    ]
    shape = (len(images), len(responses[0]))
    each = shape[1] * self._k
    pairs = list(zip((x for x in images for _ in range(each)), questions, strict=True))
    # Whole images: what repeats itself does so within an image, and is asked once.
    size = -(-_PART // each) * each
    seconds = {"answer": 0.0, "verify": 0.0, "reward": 0.0}
    calls = dict.fromkeys(SPENT, 0)
    judged = []
    for part in (pairs[at : at + size] for at in range(0, len(pairs), size)):
      answers = self._answering.submit(self._answer, part, seed, seconds, calls)
      more = (part, answers, seed, seconds, calls)
      judged.append(self._verifying.submit(self._verify, *more))
    return self._verifying.submit(self._gather, judged, shape, terms, seconds, calls)

  def close(self) -> None:
    """Ends when what was handed over is done."""
    self._answering.close()
    self._verifying.close()

  def _answer(self, part, seed, seconds, calls) -> list[Answer]:
    with _timed(seconds, "answer", self._lock):
      return answerer.ask(
        self._counted("answerer", calls),
        part,
        max_tokens=self._limits.answer_tokens,
        seed=seed,
      )

  def _verify(self, part, answers: Future, seed, seconds, calls) -> list:
    answers = answers.result()
    items = [(*pair, answer) for pair, answer in zip(part, answers, strict=True)]
    limits = self._limits
    with _timed(seconds, "verify", self._lock):
      verdicts = verifier.judge(
        self._counted("verifier", calls),
        items,
        retries=limits.retries,
        max_tokens=limits.judge_tokens,
        seed=seed,
        votes=limits.votes,
        agreement=limits.agreement,
      )
      verdicts = verifier.without_image(
        self._counted("answerer", calls),
        self._counted("verifier", calls),
        items,
        verdicts,
        guesses=limits.guesses,
        answer_tokens=limits.answer_tokens,
        max_tokens=limits.judge_tokens,
        retries=limits.retries,
        seed=seed,
      )
    return [(*item[1:], v) for item, v in zip(items, verdicts, strict=True)]

  def _counted(self, role: str, calls: dict[str, int]) -> "_Counted":
    return _Counted(getattr(self._roles, role), role, calls, self._lock)

  def _gather(self, judged: list[Future], shape, terms, seconds, calls) -> Judged:
    slots = [slot for part in judged for slot in part.result()]
    with _timed(seconds, "reward", self._lock):
      texts = rewards.needs_embedding([row_of(*slot) for slot in slots], terms)
      vectors = self._roles.embedder.embed(texts) if texts else []
    vectors = dict(zip(texts, vectors, strict=True))
    return Judged(slots, shape, vectors, seconds, calls)


class _Counted:
  """A generator that counts what it is asked and what it says; threads share counts."""

  def __init__(
    self, generator: Generator, role: str, calls: dict[str, int], lock: threading.Lock
  ):
    self.name, self.revision = generator.name, generator.revision
    self._generator, self._role = generator, role
    self._calls, self._lock = calls, lock

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    self._add("calls", len(requests))
    for index, reply in protocol.stream(self._generator, requests):
      self._add("tokens", reply.tokens)
      yield index, reply

  def _add(self, what: str, number: int) -> None:
    with self._lock:
      self._calls[f"{self._role}_{what}"] += number


class _Stage:
  """Does one thing after another in a thread of its own, or several in several.

  Not one of `concurrent.futures`: a run that stops does not wait for a model.
  """

  def __init__(self, name: str, threads: int):
    self._tasks: queue.SimpleQueue = queue.SimpleQueue()
    self._threads = threads
    for _ in range(threads):
      threading.Thread(target=self._work, name=name, daemon=True).start()

  def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
    future: Future[T] = Future()
    self._tasks.put((future, function, arguments))
    return future

  def close(self) -> None:
    for _ in range(self._threads):
      self._tasks.put(None)

  def _work(self) -> None:
    while (task := self._tasks.get()) is not None:
      future, function, arguments = task
      try:
        future.set_result(function(*arguments))
      except BaseException as error:  # raised where it is waited for
        future.set_exception(error)


@contextlib.contextmanager
def _timed(
  seconds: dict[str, float], stage: str, lock: threading.Lock
) -> Iterator[None]:
  begun = time.perf_counter()
  yield
  with lock:
    seconds[stage] += time.perf_counter() - begun


def row_of(question: Question, answer: Answer, verdict: Verdict) -> rewards.Row:
  """What the reward sees of a slot."""
  return rewards.Row(
    question.image_id,
    question.response_index,
    question.slot,
    verdict.status,
    question.text,
    verdict.valid,
    verdict.correct,
  )
