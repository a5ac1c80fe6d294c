"""What a run may spend on other models, and what it has spent."""

import json
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence

from fmd_jax.inference.protocol import (
  Generator,
  InferenceError,
  Reply,
  Request,
  stream,
)

_CURE = "Raise it and start the same command again: the run goes on where it stopped"
_COUNTS = ("calls", "prompt_tokens", "tokens", "usd")


class BudgetError(InferenceError):
  """The budget does not allow the next calls; nothing that was paid for is lost."""


class Ledger:
  """Counts calls, tokens and dollars of all roles in one file. Threads may share it.

  Args:
    path: `spending.json` of the workdir, a pathlib or epath path: role -> calls,
      prompt_tokens, tokens, usd. What earlier processes spent is read from it.
    calls: the most calls of all roles together; 0 for no limit. Replies from the cache
      are no calls.
    usd: the most dollars; 0 for no limit.
    prices: role -> dollars for a million tokens read, and for a million written.

  Raises:
    ValueError: there is a limit in dollars and no price.
  """

  def __init__(
    self,
    path: pathlib.Path,
    *,
    calls: int,
    usd: float,
    prices: Mapping[str, Sequence[float]],
  ):
    if usd and not any(any(price) for price in prices.values()):
      raise ValueError(
        "config.budget.usd is set and config.budget.prices are all 0: set the dollars "
        "for a million tokens read and written, --config.budget.prices.verifier=(2.,8.)"
      )
    self._path, self._calls, self._usd = path, calls, usd
    self._prices, self._lock = prices, threading.Lock()
    self._asked: dict[str, int] = {}
    self._roles: dict[str, dict[str, float]] = {}
    if self._path.exists():
      self._roles = json.loads(self._path.read_text())

  def total(self, count: str) -> float:
    """Of all roles, since the run began: "calls", "tokens", "usd"…"""
    return sum(role[count] for role in self._roles.values())

  def reserve(self, role: str, number: int) -> None:
    """Refuses calls that the budget does not cover, before they are made.

    Raises:
      BudgetError: says what is spent and how to go on.
    """
    with self._lock:
      under_way = sum(self._asked.values())
      calls, usd = self.total("calls"), self.total("usd")
      if self._calls and calls + under_way + number > self._calls:
        raise BudgetError(
          f"config.budget.calls is {self._calls}: {calls:.0f} calls are made and the "
          f"next {number}, of the {role}, are more. {_CURE}"
        )
      own = self._roles.get(role)
      each = own["usd"] / own["calls"] if own and own["calls"] else 0.0
      if self._usd and usd + each * number >= self._usd:
        raise BudgetError(
          f"config.budget.usd is {self._usd:g}: {usd:.4f} are spent and the next "
          f"{number} calls, of the {role}, cost about {each * number:.4f}. {_CURE}"
        )
      self._asked[role] = self._asked.get(role, 0) + number

  def settle(self, role: str, replies: Sequence[Reply], reserved: int) -> None:
    """Counts what reserved calls gave; those that gave nothing are free again."""
    price = self._prices.get(role, (0.0, 0.0))
    with self._lock:
      self._asked[role] -= reserved
      paid = [reply for reply in replies if not reply.cached]
      if not paid:
        return
      own = self._roles.setdefault(role, dict.fromkeys(_COUNTS, 0))
      read = sum(reply.prompt_tokens for reply in paid)
      written = sum(reply.tokens for reply in paid)
      own["calls"] += len(paid)
      own["prompt_tokens"] += read
      own["tokens"] += written
      own["usd"] += (read * price[0] + written * price[1]) / 1e6
      temporary = self._path.parent / f"{self._path.name}.tmp"
      temporary.write_text(json.dumps(self._roles, indent=2) + "\n")
      temporary.replace(self._path)


class BudgetedGenerator:
  """A Generator whose calls a ledger counts, and refuses when too many."""

  def __init__(self, generator: Generator, role: str, ledger: Ledger):
    self._generator, self._role, self._ledger = generator, role, ledger

  @property
  def name(self) -> str:
    return self._generator.name

  @property
  def revision(self) -> str:
    return self._generator.revision

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    self._ledger.reserve(self._role, len(requests))
    replies = []
    try:
      for index, reply in stream(self._generator, requests):
        replies.append(reply)
        yield index, reply
    finally:
      # Also when the caller left, or the model failed: what came was paid for.
      self._ledger.settle(self._role, replies, len(requests))
