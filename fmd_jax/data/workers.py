"""Images read and prepared ahead of the step that needs them.

Threads, not processes: decoding, resizing and encoding in Pillow, hashing, and NumPy's
copies all release the interpreter's lock (measured: LOG, 2026-11-24), and 8 to 24 MB of
patches a picture need not be sent from one process to another.
"""

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END = object()


class Workers:
  """Some threads, and a cache that they share; to be used as a context.

  What comes out, order and errors included, is the same for any number of them.
  """

  def __init__(self, count: int = 0, cache_mb: int = 0):
    """Starts nothing yet.

    Args:
      count: threads that work on images; 0 does everything where it is asked for.
      cache_mb: most that `cached` keeps, in 10^6 bytes.
    """
    make = concurrent.futures.ThreadPoolExecutor
    self._pool = make(count, "images") if count else None
    # Apart, because it waits for the others.
    self._ahead = make(1, "ahead") if count else None
    self._limit, self._used = cache_mb * 10**6, 0
    self._kept: collections.OrderedDict[Hashable, tuple[object, int]]
    self._kept = collections.OrderedDict()
    self._lock = threading.Lock()

  def __enter__(self) -> "Workers":
    return self

  def __exit__(self, *_) -> None:
    for pool in (self._pool, self._ahead):
      if pool is not None:
        pool.shutdown(cancel_futures=True)

  def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results in order; the first error, in order, is raised here."""
    if self._pool is None:
      return [function(item) for item in items]
    return list(self._pool.map(function, items))

  def ahead(self, items: Iterator[T]) -> Iterator[T]:
    """The same items, each computed while the one before it is in use.

    An error is raised where its item would have come.
    """
    if self._ahead is None:
      yield from items
      return
    coming = self._ahead.submit(next, items, _END)
    while (item := coming.result()) is not _END:
      coming = self._ahead.submit(next, items, _END)
      yield item

  def cached(self, key: Hashable, make: Callable[[], R], size: Callable[[R], int]) -> R:
    """What `make` gives, kept while the cache has room: the least recently used goes.

    Args:
      key: of equal keys, one value is made; of two that are made at once, both are.
      make: gives the value, which nobody changes.
      size: of the value, in bytes.
    """
    if not self._limit:
      return make()
    with self._lock:
      if key in self._kept:
        self._kept.move_to_end(key)
        return self._kept[key][0]
    value = make()
    bytes_ = size(value)
    with self._lock:
      if key not in self._kept and bytes_ <= self._limit:
        self._kept[key] = (value, bytes_)
        self._used += bytes_
        while self._used > self._limit:
          self._used -= self._kept.popitem(last=False)[1][1]
    return value
