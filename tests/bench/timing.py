"""Seconds of calls, in turns, and what this machine can do at most.

Neighbours on a shared machine come and go: what is compared is timed in turns, and a
peak is the best seen right beside what is measured against it.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

# A matrix product of the size of a bench's own: rows of a step, two widths.
_MATMUL = (2048, 2048, 2048)


Clock = Callable[[], float]


def one_core() -> Clock:
  """Keeps this process and those it starts on one core, and counts its CPU seconds.

  Neighbours take none of those. More than one thread would spend them waiting as well.
  """
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
  return time.process_time


def seconds(call: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
  """The time of one call, its arrays finished."""
  start = clock()
  jax.block_until_ready(call())
  return clock() - start


def in_turns(
  calls: Mapping[str, Callable[[], float]], repeats: int
) -> dict[str, list[float]]:
  """Runs all calls once, then all again, `repeats` times; each returns seconds."""
  times = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      times[name].append(call())
  return times


def median(times: Mapping[str, list[float]]) -> dict[str, float]:
  """The median of each list."""
  return {name: statistics.median(values) for name, values in times.items()}


class Peaks:
  """What the machine does at best, measured as often as asked."""

  def __init__(self, weight_bytes: int, clock: Clock = time.perf_counter):
    """Prepares the probes.

    Args:
      weight_bytes: of the weights that a decoding step reads: caches may hold them, so
        what is streamed must be as large.
      clock: of the seconds.
    """
    self._clock = clock
    m, k, n = _MATMUL
    self._a, self._b = jnp.ones((m, k)), jnp.ones((k, n))
    width = 1024
    self._weights = jnp.ones((max(weight_bytes // (4 * width), 1), width))
    self._vector = jnp.ones((width, 1))
    self._product = jax.jit(jnp.matmul)
    self._flops = self._bandwidth = 0.0
    for _ in range(2):  # the first compiles
      self.measure()

  def measure(self) -> None:
    """Runs both probes once; only the best result of all counts."""
    flops = 2 * self._a.shape[0] * self._a.shape[1] * self._b.shape[1]
    taken = seconds(lambda: self._product(self._a, self._b), self._clock)
    self._flops = max(self._flops, flops / taken)
    taken = seconds(lambda: self._product(self._weights, self._vector), self._clock)
    self._bandwidth = max(self._bandwidth, self._weights.nbytes / taken)

  @property
  def flops(self) -> float:
    """Floating-point operations a second of a square fp32 matrix product."""
    return self._flops

  @property
  def bandwidth(self) -> float:
    """Bytes a second of weights times one vector."""
    return self._bandwidth


def table(head: list[str], rows: list[list[Any]]) -> str:
  """Rows under a head, the first column left, the others right."""
  cells = [head, *([str(cell) for cell in row] for row in rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
  return "\n".join(
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ).rstrip()
    for row in cells
  )
