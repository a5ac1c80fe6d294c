"""A run that is asked to stop: SIGTERM, or Ctrl-C.

At most places it just stops: every file is whole or not there. A method asks itself
where it can, so that it stops between steps, on all processes at the same one.
"""

import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Collection, Iterator
from typing import TypeVar

from absl import logging

from fmd_jax.hosts import Stopped, together

T = TypeVar("T")
# sysexits.h's EX_TEMPFAIL: try again.
EXIT_CODE = 75
_POLL_SECONDS = 0.2


class Alarmed(Stopped):
  """The run stopped itself: starting it again, as it is, ends here again."""


class Stop:
  """Whether the run was asked to stop."""

  def __init__(self):
    self._asked = threading.Event()
    self._deferred = False

  def listen(self) -> None:
    """Takes SIGTERM and SIGINT for the request, from the main thread.

    After JAX has its devices: libtpu has a handler of its own.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._on_signal)

  def _on_signal(self, number: int, _) -> None:
    if self._asked.is_set() and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.ask(signal.Signals(number).name)

  def ask(self, why: str) -> None:
    """Raises Stopped here and now; within `deferred`, at the next `check` or `wait`."""
    self._asked.set()
    if not self._deferred:
      raise Stopped(f"stopped by {why}")
    logging.warning("%s: the run stops as soon as it has kept what it has", why)

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Within it nothing is torn: only `check`, `wait` and its end raise Stopped."""
    self._deferred = True
    try:
      yield
      self.check()
    finally:
      self._deferred = False

  def check(self) -> None:
    """Raises Stopped, on all processes at once, if one of them was asked."""
    together(self._raise)

  def wait(self, future: concurrent.futures.Future[T]) -> T:
    """The future's result; Stopped, on this process alone, if it is asked before."""
    while not self.pause([future]):
      pass
    return future.result()

  def pause(self, futures: Collection[concurrent.futures.Future]) -> bool:
    """Whether one of them is done, after a moment at most; Stopped as in `wait`."""
    self._raise()
    first = concurrent.futures.FIRST_COMPLETED
    return bool(concurrent.futures.wait(futures, _POLL_SECONDS, first).done)

  def _raise(self) -> None:
    if self._asked.is_set():
      raise Stopped("the run was asked to stop")
