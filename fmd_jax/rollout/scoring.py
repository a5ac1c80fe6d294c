"""Verdicts to rewards, over all processes of a run."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import numpy as np

from fmd_jax import hosts, rewards
from fmd_jax.rollout.judges import Judged, Judges, Limits, Roles, row_of
from fmd_jax.types import Answer, ImageExample, Question, Verdict

T = TypeVar("T")


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
class Rollout:
  """B images, G responses each, K slots each, judged and scored.

  Attributes:
    slots: B·G·K triples in (image, response, slot) order.
    scores: the rewards of the slots and of the responses; None when nothing was
      scored (the final policy on unseen images).
    rewards: fp32 [B, G]; 0 where `mask` is false.
    mask: bool [B, G] false for a response without a scored slot.
    seconds: time spent by stage.
    step_rows: the rows of all processes, which is what is measured.
    step_scores: their rewards.
    calls: what all processes asked of the models, see `Judged`.
  """

  slots: list[tuple[Question, Answer, Verdict]]
  scores: rewards.StepRewards | None
  rewards: np.ndarray
  mask: np.ndarray
  seconds: dict[str, float]
  step_rows: list[rewards.Row]
  step_scores: rewards.StepRewards | None
  calls: dict[str, int]

  @property
  def slot_rewards(self) -> np.ndarray:
    """fp32 [B, G, K]; 0 where `slot_mask` is false. Needs `scores`."""
    return self.scores.reward.reshape(*self.mask.shape, -1).astype(np.float32)

  @property
  def slot_mask(self) -> np.ndarray:
    """bool [B, G, K] false for an unscored slot. Needs `scores`."""
    return self.scores.scored.reshape(*self.mask.shape, -1)


def score(
  judged: T,
  banks: rewards.Banks | None,
  reward: RewardOptions,
  wait: Callable[[T], Judged] = Future.result,
) -> Rollout:
  """Waits for the verdicts, scores them, then feeds the banks.

  Every process learns the rows and embeddings of all and scores them all, so that the
  banks agree on every process at every step.

  Args:
    judged: this process's part, a future of it or whatever `wait` takes.
    banks: scored against as they stand, then appended to; None to score nothing.
    reward: how eq. 5 is put together.
    wait: gives its result, or raises, which all processes then do.
  """
  found: list[Judged] = []

  def tell() -> tuple[list[rewards.Row], dict[str, np.ndarray], dict[str, int]]:
    own = wait(judged)
    found.append(own)
    return [row_of(*slot) for slot in own.slots], own.vectors, own.calls

  parts = hosts.together(tell)
  (own,) = found
  begun = time.perf_counter()
  rows = [row for part, *_ in parts for row in part]
  calls = {name: sum(c[name] for *_, c in parts) for name in own.calls}
  scores = everyone = None
  totals, mask = np.zeros(own.shape, np.float32), np.zeros(own.shape, bool)
  if banks is not None:
    vectors = {text: v for _, part, _ in parts for text, v in part.items()}
    everyone = rewards.score_step(rows, vectors, banks, **dataclasses.asdict(reward))
    banks.append(rows, vectors)
    first = sum(len(part) for part, *_ in parts[: hosts.index()])
    scores = everyone.part(first, first + len(own.slots))
    totals = scores.response_reward.reshape(own.shape).astype(np.float32)
    mask = scores.response_scored.reshape(own.shape)
  spent = own.seconds["reward"] + time.perf_counter() - begun
  seconds = {**own.seconds, "reward": spent}
  return Rollout(own.slots, scores, totals, mask, seconds, rows, everyone, calls)


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
  """`Judges.hand` and `score` in one: answers, judges and scores one step.

  Args:
    images: B images.
    responses: [B][G] texts of the questioner.
    roles: answerer, verifier and embedder.
    banks: see `score`.
    k: K, the slots of a response.
    reward: how eq. 5 is put together.
    limits: of the models' replies.
    seed: of the models' sampling, where they sample.
  """
  judges = Judges(roles, k=k, limits=limits)
  terms = reward.terms if banks is not None else ()
  judged = judges.hand(images, responses, terms=terms, seed=seed)
  judges.close()
  return score(judged, banks, reward)


def measurements(rollout: Rollout) -> dict[str, float]:
  """`family/name` numbers of a step, of all processes, for `measurements.jsonl`."""
  rows, scores = rollout.step_rows, rollout.step_scores
  status = [row.status for row in rows]
  scored = [row for row in rows if row.scored]
  valid = [row for row in scored if row.status == "ok" and row.valid]
  wrong = [row for row in valid if row.failure]
  prefixes = {rewards.prefix(row.question, 2) for row in valid}
  mean = {}
  if scores is not None and scores.response_scored.any():
    # In fp32, as the advantages see them.
    totals = scores.response_reward.astype(np.float32)[scores.response_scored]
    mean["reward/mean"] = float(totals.mean())
  return {
    **mean,
    "rollout/unparsed_rate": status.count("unparsed") / len(status),
    "rollout/unscored_rate": status.count("unscored") / len(status),
    "rollout/qvr": len(valid) / len(scored) if scored else float("nan"),
    "rollout/fdr": len(wrong) / len(valid) if valid else float("nan"),
    "rollout/failures": len(wrong),
    "rollout/distinct_prefixes": len(prefixes),
    "budget/questions": len(status),
    **{f"budget/{name}": number for name, number in rollout.calls.items()},
    **{f"time/{stage}": seconds for stage, seconds in rollout.seconds.items()},
  }
