"""What is watched in a step, and when it is an alarm."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fmd_jax import rewards
from fmd_jax.monitor.sequential import gap_interval
from fmd_jax.types import Answer, Question, Verdict

LEVEL = 0.95  # of both gaps, both ends and all checks of a run together
ALARMS = {
  "valid": "questions that the verifier calls valid and the evaluator does not",
  "correct": "answers that the verifier calls wrong and the evaluator does not",
  "prefix": "questions that begin alike",
  "zero_variance": "groups whose responses all have the same reward",
}
_GAPS = ("valid", "correct")
Key = tuple[str, str, str]  # image, question, answer


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.monitor`, where its keys are explained, and what a check depends on.

  Attributes:
    checks: of the whole run; their intervals hold together.
    seed: of the rows that are drawn.
    prefix_length: words of a question's beginning.
  """

  rows: int
  window: int
  gap: float
  prefix: float
  zero_variance: float
  checks: int
  seed: int
  prefix_length: int


class Watch:
  """The checks of one training.

  Args:
    ask: the independent evaluator: its verdict on each (image, question, answer).
    options: how closely it looks.
    past: measurements of the steps before, from which a resumed run goes on.
  """

  def __init__(
    self,
    ask: Callable[[Sequence[Key]], Sequence[Verdict]],
    options: Options,
    past: Sequence[Mapping[str, Any]] = (),
  ):
    self._ask, self._options = ask, options
    self._past = [row for row in past if "monitor/rows" in row]

  def check(
    self,
    step: int,
    slots: Sequence[tuple[Question, Answer, Verdict]],
    totals: Float[np.ndarray, "B G"],
    mask: Bool[np.ndarray, "B G"],
  ) -> tuple[dict[str, float], list[str]]:
    """Looks at one step.

    Args:
      step: of the training.
      slots: as the verifier judged them.
      totals: the responses' rewards.
      mask: which responses have one.

    Returns:
      What to measure, "monitor/…", with "monitor/alarm_…" 1.0 or 0.0 for each of
      `ALARMS`; and a sentence for each alarm.
    """
    numbers = self._compare(step, slots)
    numbers["monitor/prefix_share"] = _largest(slots, self._options.prefix_length)
    numbers["monitor/zero_variance"] = _flat(totals, mask)
    self._past.append({"step": step, **numbers})
    recent = [r for r in self._past if r["step"] > step - self._options.window]
    alarms = []
    for name in _GAPS:
      counts = [
        int(sum(row[f"monitor/{name}_{side}"] for row in recent))
        for side in ("more", "same", "less")
      ]
      tail = (1 - LEVEL) / (2 * len(_GAPS) * self._options.checks)
      low, high = gap_interval(*counts, tail)
      rows = sum(counts)
      gap = (counts[0] - counts[2]) / rows if rows else float("nan")
      numbers |= {
        f"monitor/{name}_gap": gap,
        f"monitor/{name}_gap_low": low,
        f"monitor/{name}_gap_high": high,
        f"monitor/alarm_{name}": float(low > self._options.gap),
      }
      if low > self._options.gap:
        alarms.append(
          f"{ALARMS[name]}: {gap:.0%} more than the other way round "
          f"({low:.0%} to {high:.0%}, of {rows} rows)"
        )
    for name, share in (("prefix", "prefix_share"), ("zero_variance",) * 2):
      value, most = numbers[f"monitor/{share}"], getattr(self._options, name)
      numbers[f"monitor/alarm_{name}"] = float(value > most)
      if value > most:
        alarms.append(f"{ALARMS[name]}: {value:.0%}, above {most:.0%}")
    return numbers, alarms

  def _compare(self, step: int, slots) -> dict[str, float]:
    """How often the verifier finds more than the evaluator, the same, and less."""
    judged = [slot for slot in slots if slot[2].status == "ok"]
    generator = np.random.default_rng([self._options.seed, step])
    drawn = generator.permutation(len(judged))[: self._options.rows]
    rows = [judged[place] for place in sorted(drawn)]
    keys = [(q.image_id, q.text, answer.text) for q, answer, _ in rows]
    pairs = [
      (own, other)
      for (_, _, own), other in zip(rows, self._ask(keys), strict=True)
      if other.status == "ok"
    ]
    both = [(own, other) for own, other in pairs if own.valid and other.valid]
    differences = {
      "valid": Counter(int(own.valid) - int(other.valid) for own, other in pairs),
      "correct": Counter(int(other.correct) - int(own.correct) for own, other in both),
    }
    return {
      "monitor/rows": len(pairs),
      **{
        f"monitor/{name}_{side}": found[difference]
        for name, found in differences.items()
        for side, difference in (("more", 1), ("same", 0), ("less", -1))
      },
    }


def _largest(slots, words: int) -> float:
  """The share of the most frequent beginning among the questions that were asked."""
  found = Counter(rewards.prefix(q.text, words) for q, _, _ in slots if q.text)
  return max(found.values()) / found.total() if found else float("nan")


def _flat(totals, mask) -> float:
  """The share of groups that teach nothing, of those with two scored responses."""
  groups = [own[there] for own, there in zip(totals, mask) if there.sum() > 1]
  flat = [np.ptp(own) < 1e-6 for own in groups]
  return float(np.mean(flat)) if flat else float("nan")
