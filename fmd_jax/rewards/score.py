"""One step's rows to rewards: the entry point of this package."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from fmd_jax.rewards.banks import Banks
from fmd_jax.rewards.combine import TERMS, combine, response_rewards
from fmd_jax.rewards.diversity import LEXICAL, prefix, semantic
from fmd_jax.rewards.rows import Row, check, responses


@dataclasses.dataclass(frozen=True)
class StepRewards:
  """The rewards of N rows in R responses; every array is finite everywhere.

  Attributes:
    delta_emb: [N] eq. 3; 0 where `has_delta_emb` is false.
    delta_ifreq: [N] eq. 4; 0 where `has_delta_ifreq` is false.
    reward: [N] eq. 5; 0 where `scored` is false.
    scored: [N] false for unscored rows; they belong in no mean.
    response_reward: [R] aggregate over the scored slots; 0 where there are none.
    response_scored: [R] false for a response without a scored slot.
    response_of: [N] the response of each row.
    has_delta_emb: [N] true for failures (V = 1 and C = 0) when the term is on.
    has_delta_ifreq: [N] likewise.
  """

  delta_emb: Float[np.ndarray, "N"]
  delta_ifreq: Float[np.ndarray, "N"]
  reward: Float[np.ndarray, "N"]
  scored: Bool[np.ndarray, "N"]
  response_reward: Float[np.ndarray, "R"]
  response_scored: Bool[np.ndarray, "R"]
  response_of: np.ndarray
  has_delta_emb: Bool[np.ndarray, "N"]
  has_delta_ifreq: Bool[np.ndarray, "N"]

  def part(self, start: int, stop: int) -> "StepRewards":
    """Those of the rows from `start` to `stop`, which cut no response in two."""
    own = slice(start, stop)
    of = self.response_of[own]
    first, last = (of[0], of[-1] + 1) if len(of) else (0, 0)
    responses = {
      "response_reward": self.response_reward[first:last],
      "response_scored": self.response_scored[first:last],
      "response_of": of - first,
    }
    rows = {
      field.name: getattr(self, field.name)[own]
      for field in dataclasses.fields(self)
      if field.name not in responses
    }
    return StepRewards(**rows, **responses)

  def record_fields(self, i: int) -> dict[str, float | None]:
    """The columns of row `i` in the records, None for what does not exist."""
    r = self.response_of[i]
    fields = {
      "delta_emb": (self.has_delta_emb[i], self.delta_emb[i]),
      "delta_ifreq": (self.has_delta_ifreq[i], self.delta_ifreq[i]),
      "reward": (self.scored[i], self.reward[i]),
      "response_reward": (self.response_scored[r], self.response_reward[r]),
    }
    return {name: float(v) if has else None for name, (has, v) in fields.items()}


def _semantic(
  rows: Sequence[Row],
  groups: Sequence[Sequence[int]],
  embeddings: Mapping[str, np.ndarray],
  banks: Banks,
) -> np.ndarray:
  delta = np.zeros(len(rows))
  bank_of: dict[str, np.ndarray] = {}
  for indices in groups:
    earlier: list[str] = []
    for i in indices:
      row = rows[i]
      if row.failure:
        if row.image_id not in bank_of:
          bank_of[row.image_id] = banks.embeddings(row.image_id)
        own = np.asarray(embeddings[row.question], np.float32)
        siblings = [np.asarray(embeddings[text], np.float32) for text in earlier]
        # Two maxima instead of one stack: the bank may be large.
        delta[i] = min(
          semantic(own, bank_of[row.image_id]),
          semantic(own, np.array(siblings)),
        )
      if row.parsed:
        earlier.append(row.question)
  return delta


def score_step(
  rows: Iterable[tuple],
  embeddings: Mapping[str, np.ndarray],
  banks: Banks,
  *,
  terms: Sequence[str],
  lambda_scale: float,
  lambda_penalty: float,
  prefix_length: int,
  lexical: str,
  aggregate: str,
) -> StepRewards:
  """Scores a step against the banks as they stand; `banks.append` comes after.

  Args:
    rows: `Row`s, or tuples of its fields, in (image, response, slot) order.
    embeddings: question -> [E], for all that `needs_embedding(rows, terms)` names.
    banks: the memory; not changed.
    terms: any of "semantic", "lexical", "penalty".
    lambda_scale: of eq. 5.
    lambda_penalty: of eq. 5; an unparsed slot pays it too.
    prefix_length: L of eq. 4; must be that of the banks.
    lexical: "paper" (eq. 4) or "relative" (ours).
    aggregate: slots to response: "mean", "sum" or "max".

  Returns:
    The rewards of all rows and responses.

  Raises:
    ValueError: for an unknown name, another prefix length than the banks', or a
      row with status "ok" and no verdict.
  """
  unknown = set(terms) - set(TERMS)
  if unknown:
    raise ValueError(f"reward.terms {sorted(unknown)} are none of {list(TERMS)}")
  if lexical not in LEXICAL:
    raise ValueError(f"reward.lexical {lexical!r} is none of {list(LEXICAL)}")
  if prefix_length != banks.prefix_length:
    raise ValueError(
      f"reward.prefix_length is {prefix_length}, but the banks were counted with "
      f"{banks.prefix_length}"
    )
  rows = check(rows)
  groups = responses(rows)
  failure = np.array([row.failure for row in rows], bool)
  scored = np.array([row.scored for row in rows], bool)
  delta_emb, delta_ifreq = np.zeros(len(rows)), np.zeros(len(rows))
  if "semantic" in terms:
    delta_emb = _semantic(rows, groups, embeddings, banks)
  if "lexical" in terms:
    for i in np.flatnonzero(failure):
      text = prefix(rows[i].question, prefix_length)
      delta_ifreq[i] = LEXICAL[lexical](text, banks.counts)

  active = [
    delta
    for name, delta in (("semantic", delta_emb), ("lexical", delta_ifreq))
    if name in terms
  ]
  reward = np.zeros(len(rows))
  for i in np.flatnonzero(scored):
    reward[i] = combine(
      rows[i].status == "ok" and bool(rows[i].valid),
      bool(rows[i].correct),
      [delta[i] for delta in active],
      lambda_scale=lambda_scale,
      lambda_penalty=lambda_penalty if "penalty" in terms else 0.0,
    )
  response_reward, response_scored = response_rewards(reward, scored, groups, aggregate)
  response_of = np.zeros(len(rows), int)
  for r, indices in enumerate(groups):
    response_of[indices] = r
  return StepRewards(
    delta_emb=delta_emb,
    delta_ifreq=delta_ifreq,
    reward=reward,
    scored=scored,
    response_reward=response_reward,
    response_scored=response_scored,
    response_of=response_of,
    has_delta_emb=failure & ("semantic" in terms),
    has_delta_ifreq=failure & ("lexical" in terms),
  )
