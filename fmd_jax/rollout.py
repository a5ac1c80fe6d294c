"""Image to reward: the arrow chain of one step, and the only place where the strings
of models become arrays.

    responses -> questions -> answers -> verdicts -> rewards -> advantages
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fmd_jax import answerer, prompts, rewards, verifier
from fmd_jax.inference import Embedder, Generator, identity
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.types import CRITERIA, Answer, ImageExample, Question, Record, Verdict

_REWARD_FIELDS = ("delta_emb", "delta_ifreq", "reward", "response_reward")


class Roles(NamedTuple):
  """The models that a rollout asks; the questioner has spoken already."""

  answerer: Generator
  verifier: Generator
  embedder: Embedder


@dataclasses.dataclass(frozen=True)
class RewardOptions:
  """`config.reward` and `config.judge`, as plain values; see `rewards.score_step`."""

  terms: tuple[str, ...]
  lambda_scale: float
  lambda_penalty: float
  prefix_length: int
  lexical: str
  aggregate: str


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
class Rollout:
  """B images, G responses each, K slots each, judged and scored.

  Attributes:
    slots: B·G·K triples in (image, response, slot) order.
    scores: the rewards of the slots and of the responses; None when nothing was
      scored (the final policy on unseen images).
    rewards: fp32 [B, G]; 0 where `mask` is false.
    mask: bool [B, G] false for a response without a scored slot.
    seconds: time spent by stage.
  """

  slots: list[tuple[Question, Answer, Verdict]]
  scores: rewards.StepRewards | None
  rewards: np.ndarray
  mask: np.ndarray
  seconds: dict[str, float]

  @property
  def slot_rewards(self) -> np.ndarray:
    """fp32 [B, G, K]; 0 where `slot_mask` is false. Needs `scores`."""
    return self.scores.reward.reshape(*self.mask.shape, -1).astype(np.float32)

  @property
  def slot_mask(self) -> np.ndarray:
    """bool [B, G, K] false for an unscored slot. Needs `scores`."""
    return self.scores.scored.reshape(*self.mask.shape, -1)


def judge_responses(
  images: Sequence[ImageExample],
  responses: Sequence[Sequence[str]],
  roles: Roles,
  banks: rewards.Banks | None,
  *,
  k: int,
  reward: RewardOptions,
  limits: Limits,
  seed: int,
) -> Rollout:
  """Answers, judges and scores the responses of one step, then feeds the banks.

  Args:
    images: B images.
    responses: [B][G] texts of the questioner.
    roles: answerer, verifier and embedder.
    banks: scored against as they stand, then appended to; None to score nothing.
    k: K, the slots of a response.
    reward: how eq. 5 is put together.
    limits: of the models' replies.
    seed: of the models' sampling, where they sample.
  """
  questions = [
    Question(image.image_id, g, slot, text or "", "ok" if text else "unparsed")
    for image, group in zip(images, responses, strict=True)
    for g, response in enumerate(group)
    for slot, text in enumerate(parse_response(response, k))
  ]
  group_size = len(responses[0])
  shown = [image for image in images for _ in range(group_size * k)]

  clock = [time.perf_counter()]
  answers = answerer.ask(
    roles.answerer,
    list(zip(shown, questions, strict=True)),
    max_tokens=limits.answer_tokens,
    seed=seed,
  )
  clock.append(time.perf_counter())
  items = list(zip(shown, questions, answers, strict=True))
  verdicts = verifier.judge(
    roles.verifier,
    items,
    retries=limits.retries,
    max_tokens=limits.judge_tokens,
    seed=seed,
    votes=limits.votes,
    agreement=limits.agreement,
  )
  verdicts = verifier.without_image(
    roles.answerer,
    roles.verifier,
    items,
    verdicts,
    guesses=limits.guesses,
    answer_tokens=limits.answer_tokens,
    max_tokens=limits.judge_tokens,
    retries=limits.retries,
    seed=seed,
  )
  clock.append(time.perf_counter())
  slots = list(zip(questions, answers, verdicts, strict=True))
  shape = (len(images), group_size)
  scores, totals, mask = None, np.zeros(shape, np.float32), np.zeros(shape, bool)
  if banks is not None:
    scores = _score([_row(*slot) for slot in slots], roles.embedder, banks, reward)
    totals = scores.response_reward.reshape(shape).astype(np.float32)
    mask = scores.response_scored.reshape(shape)
  clock.append(time.perf_counter())
  stages = zip(("answer", "verify", "reward"), np.diff(clock), strict=True)
  seconds = {stage: float(spent) for stage, spent in stages}
  return Rollout(slots, scores, totals, mask, seconds)


def _score(rows, embedder, banks, reward: RewardOptions) -> rewards.StepRewards:
  texts = rewards.needs_embedding(rows, reward.terms)
  vectors = embedder.embed(texts) if texts else []
  embeddings = dict(zip(texts, vectors, strict=True))
  scores = rewards.score_step(rows, embeddings, banks, **dataclasses.asdict(reward))
  banks.append(rows, embeddings)
  return scores


def _row(question: Question, answer: Answer, verdict: Verdict) -> rewards.Row:
  return rewards.Row(
    question.image_id,
    question.response_index,
    question.slot,
    verdict.status,
    question.text,
    verdict.valid,
    verdict.correct,
  )


def records(
  rollout: Rollout,
  *,
  common: Mapping[str, object],
  prefix_length: int,
  roles: Roles,
  advantages: np.ndarray | None = None,
) -> list[Record]:
  """The rows of a rollout.

  Args:
    rollout: what was asked, said and scored.
    common: run_id, method, split, step and questioner_step of all rows.
    prefix_length: words of the `prefix` column.
    roles: whose identities the rows name.
    advantages: [B, G] of the responses or [B, G, K] of the slots; None where nothing
      is trained. What has no reward has no advantage.
  """
  now = time.time()
  names = identity(roles.answerer), identity(roles.verifier)
  advantage: list[float | None] = [None] * len(rollout.slots)
  if advantages is not None:
    advantage = _of_slots(rollout, np.asarray(advantages))
  rows = []
  for i, (question, answer, verdict) in enumerate(rollout.slots):
    fields = dict.fromkeys(_REWARD_FIELDS)
    if rollout.scores is not None:
      fields = rollout.scores.record_fields(i)
    rows.append(
      Record(
        image_id=question.image_id,
        group_id=f"{common['step']:06d}-{question.image_id}",
        response_index=question.response_index,
        slot=question.slot,
        status=verdict.status,
        question=question.text,
        prefix=rewards.prefix(question.text, prefix_length),
        answer=answer.text if answer.status == "ok" else None,
        **{name: getattr(verdict, name) for name in CRITERIA},
        valid=verdict.valid,
        correct=verdict.correct,
        rationale=verdict.rationale,
        **fields,
        advantage=advantage[i],
        answerer=names[0],
        verifier=names[1],
        questioner_prompt=prompts.version("questioner"),
        answerer_prompt=prompts.version("answerer"),
        verifier_prompt=prompts.version("verifier"),
        wall_time=now,
        **common,
      )
    )
  return rows


def _of_slots(rollout: Rollout, advantages: np.ndarray) -> list[float | None]:
  """The advantage of each of the B·G·K slots, from [B, G] or [B, G, K]."""
  mask = rollout.slot_mask
  shape = mask.shape
  if advantages.ndim == 2:
    advantages, mask = advantages[..., None], rollout.mask[..., None]
  values, known = np.broadcast_to(advantages, shape), np.broadcast_to(mask, shape)
  return [float(v) if k else None for v, k in zip(values.flat, known.flat, strict=True)]


def measurements(rollout: Rollout) -> dict[str, float]:
  """`family/name` numbers of a rollout, for `measurements.jsonl`."""
  status = [verdict.status for _, _, verdict in rollout.slots]
  scored = [v for _, _, v in rollout.slots if v.status != "unscored"]
  valid = [v for v in scored if v.valid]
  wrong = [v for v in valid if not v.correct]
  prefixes = {rewards.prefix(q.text, 2) for q, _, v in rollout.slots if v.valid}
  mean = {}
  if rollout.mask.any():
    mean["reward/mean"] = float(rollout.rewards[rollout.mask].mean())
  return {
    **mean,
    "rollout/unparsed_rate": status.count("unparsed") / len(status),
    "rollout/unscored_rate": status.count("unscored") / len(status),
    "rollout/qvr": len(valid) / len(scored) if scored else float("nan"),
    "rollout/fdr": len(wrong) / len(valid) if valid else float("nan"),
    "rollout/failures": len(wrong),
    "rollout/distinct_prefixes": len(prefixes),
    **{f"time/{stage}": seconds for stage, seconds in rollout.seconds.items()},
  }
