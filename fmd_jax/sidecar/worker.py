"""One engine, the queue in front of it, and the counts of each role that it plays."""

import concurrent.futures
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fmd_jax import inference
from fmd_jax.inference import Reply, Request

MAX_QUEUE = 4096
_WINDOW = 60.0
_CHECK_SECONDS = 1.0


class QueueFullError(Exception):
  """More requests wait for an engine than may."""


class Counts:
  """What a role did since the start."""

  def __init__(self):
    self._lock = threading.Lock()
    self.queued = self.in_flight = self.requests = 0
    self.errors = self.cache_hits = self.tokens = 0
    self._recent: deque[tuple[float, int]] = deque()

  def move(self, queued: int = 0, in_flight: int = 0) -> None:
    with self._lock:
      self.queued += queued
      self.in_flight += in_flight

  def answered(self, replies: Sequence[Reply]) -> None:
    fresh = sum(reply.tokens for reply in replies if not reply.cached)
    with self._lock:
      self.requests += len(replies)
      self.errors += sum(bool(reply.error) for reply in replies)
      self.cache_hits += sum(reply.cached for reply in replies)
      self.tokens += fresh
      self._recent.append((time.monotonic(), fresh))
      self._forget()

  def rate(self) -> float:
    """Tokens a second over the last minute."""
    with self._lock:
      self._forget()
      return sum(tokens for _, tokens in self._recent) / _WINDOW

  def _forget(self) -> None:
    while self._recent and self._recent[0][0] < time.monotonic() - _WINDOW:
      self._recent.popleft()


class Worker:
  """An engine and the one thread that touches it: torch keeps a thread pool per
  calling thread, and a model is not to be entered twice at once. An engine that takes
  calls at the same time (`concurrent`) is called by each caller's own thread.

  Args:
    spec: of the engine, which is loaded here.
    max_queue: requests that may wait for it; a single call may be larger.
  """

  def __init__(self, spec: str, max_queue: int = MAX_QUEUE):
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self._max_queue, self._waiting = max_queue, 0
    self._lock = threading.Lock()
    self.model = self._thread.submit(inference.load_engine, spec).result()
    self._at_once = getattr(self.model, "concurrent", False)

  def stream(
    self,
    model: Any,
    requests: Sequence[Request],
    counts: Counts,
    active: Callable[[], bool],
  ) -> Iterator[list[tuple[int, Reply]]]:
    """Replies as they finish, those that are ready at once together.

    Args:
      model: the engine, or the cache in front of it.
      requests: one batch.
      counts: of the role.
      active: whether the caller is still there; one that left costs nothing more.

    Raises:
      QueueFullError: come back later.
    """
    with self._place(len(requests)):
      counts.move(queued=len(requests))
      results: queue.Queue = queue.Queue()
      if self._at_once:
        work = threading.Thread(
          target=self._work, args=(model, requests, counts, active, results)
        )
        work.start()
      else:
        self._thread.submit(self._work, model, requests, counts, active, results)
      while True:
        ready = _drain(results, active)
        if ready is None:
          return
        ended = ready[-1] is None or isinstance(ready[-1], BaseException)
        replies = ready[:-1] if ended else ready
        if replies:
          counts.answered([reply for _, reply in replies])
          yield replies
        if isinstance(ready[-1], BaseException):
          raise ready[-1]
        if ended:
          return

  def close(self) -> None:
    """Ends what the engine started, its processes for one."""
    close = getattr(self.model, "close", None)
    if close is not None:
      close()

  def embed(self, texts: Sequence[str], active: Callable[[], bool]) -> Any:
    """Unit vectors [N, E]; None when the caller had left."""

    def work():
      return self.model.embed(texts) if active() else None

    return self._thread.submit(work).result()

  @contextlib.contextmanager
  def _place(self, number: int) -> Iterator[None]:
    """A place in the queue."""
    with self._lock:
      if self._waiting and self._waiting + number > self._max_queue:
        raise QueueFullError(
          f"{self._waiting} requests wait and at most {self._max_queue} may"
        )
      self._waiting += number
    try:
      yield
    finally:
      with self._lock:
        self._waiting -= number

  def _work(self, model, requests, counts, active, results) -> None:
    counts.move(queued=-len(requests), in_flight=len(requests))
    end = None
    try:
      if active():
        replies = inference.stream(model, requests)
        for found in replies:
          results.put(found)
          if not active():
            replies.close()
            break
    # Whatever an engine raises concerns the whole batch; the caller is to know.
    except BaseException as error:
      end = error
    # First: who has the last reply may ask for the counts at once.
    counts.move(in_flight=-len(requests))
    results.put(end)


def _drain(results: queue.Queue, active: Callable[[], bool]) -> list | None:
  """All that is ready, at least one; None when the caller has left."""
  while True:
    try:
      ready = [results.get(timeout=_CHECK_SECONDS)]
      break
    except queue.Empty:
      if not active():
        return None
  while ready[-1] is not None and not isinstance(ready[-1], BaseException):
    try:
      ready.append(results.get_nowait())
    except queue.Empty:
      break
  return ready
