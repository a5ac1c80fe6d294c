"""A rollout as rows of the records."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from fmd_jax import prompts, rewards
from fmd_jax.inference import identity
from fmd_jax.rollout.judges import Roles
from fmd_jax.rollout.scoring import Rollout
from fmd_jax.types import CRITERIA, Record

_REWARD_FIELDS = ("delta_emb", "delta_ifreq", "reward", "response_reward")


def records(
  rollout: Rollout,
  *,
  common: Mapping[str, object],
  prefix_length: int,
  roles: Roles,
  asked_by: Sequence[str] = ("questioner",),
  asked_at: Sequence[tuple[int, int]] | None = None,
  advantages: np.ndarray | None = None,
) -> list[Record]:
  """The rows of a rollout.

  Args:
    rollout: what was asked, said and scored.
    common: run_id, method, split, step and questioner_step of all rows.
    prefix_length: words of the `prefix` column.
    roles: whose identities the rows name.
    asked_by: the prompt of each turn, as `prompts.version` knows it.
    asked_at: the step that asked about each image and that of its policy, where they
      are not those of `common`.
    advantages: [B, G] of the responses or [B, G, K] of the slots; None where nothing
      is trained. What has no reward has no advantage.
  """
  now = time.time()
  names = identity(roles.answerer), identity(roles.verifier)
  advantage: list[float | None] = [None] * len(rollout.slots)
  if advantages is not None:
    advantage = _of_slots(rollout, np.asarray(advantages))
  asked_at = asked_at or [(common["step"], common["questioner_step"])]
  each = len(rollout.slots) // len(asked_at)
  rows = []
  for i, (question, answer, verdict) in enumerate(rollout.slots):
    step, policy_step = asked_at[i // each]
    fields = dict.fromkeys(_REWARD_FIELDS)
    if rollout.scores is not None:
      fields = rollout.scores.record_fields(i)
    rows.append(
      Record(
        image_id=question.image_id,
        group_id=f"{step:06d}-{question.image_id}",
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
        questioner_prompt=prompts.version(asked_by[question.turn]),
        answerer_prompt=prompts.version("answerer"),
        verifier_prompt=prompts.version("verifier"),
        wall_time=now,
        **{**common, "questioner_step": policy_step},
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
