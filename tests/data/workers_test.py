"""Workers give the same results, errors and order as no workers, and end."""

import itertools
import threading

import pytest

from fmd_jax import data

COUNTS = pytest.mark.parametrize("count", [0, 1, 3])


class Stop(Exception):
  pass


@COUNTS
def test_map_keeps_order_and_raises_the_first_error(count):
  # As completed, the quick ones would come first, and the late error before the early.
  slow = threading.Event()

  def work(i):
    if i == 0 and count > 1:
      slow.wait(10)
    if i == 3:
      slow.set()
    if i >= 5:
      raise Stop(i)
    return -i

  with data.Workers(count) as workers:
    assert workers.map(work, range(5)) == [0, -1, -2, -3, -4]
    with pytest.raises(Stop, match="5"):
      workers.map(work, range(4, 9))


@COUNTS
def test_ahead_gives_the_same_items_and_no_more(count):
  # An item asked for and thrown away at the end is a batch decoded for nothing, and its
  # error would come from a step that is not run.
  made = []

  def items():
    for i in range(4):
      made.append(i)
      yield i

  with data.Workers(count) as workers:
    some = workers.ahead(itertools.islice(items(), 3))
    assert list(some) == made == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 3])
def test_the_next_item_is_made_while_one_is_in_use(count):
  # Made when asked for, nothing would set the event.
  begun = threading.Event()

  def items():
    yield 0
    begun.set()
    yield 1

  with data.Workers(count) as workers:
    some = workers.ahead(items())
    assert next(some) == 0
    assert begun.wait(10)
    assert list(some) == [1]


@COUNTS
def test_an_error_comes_at_its_own_item(count):
  # Raised as soon as it happens, it would take a good step with it; swallowed, the
  # loop would wait for ever or skip a batch.
  def items():
    yield 0
    yield 1
    raise ValueError("not a readable image")

  with data.Workers(count) as workers:
    some = workers.ahead(items())
    assert [next(some), next(some)] == [0, 1]
    with pytest.raises(ValueError, match="not a readable image"):
      next(some)


@COUNTS
def test_threads_end_with_the_context_whatever_happens(count):
  before = set(threading.enumerate())
  release = threading.Event()

  def work(i):
    release.wait(10)
    return i

  with pytest.raises(Stop), data.Workers(count) as workers:
    if count:
      some = workers.ahead(iter(lambda: workers.map(work, range(50)), None))
      threading.Timer(0.05, release.set).start()
      next(some)
    raise Stop
  left = [t for t in threading.enumerate() if isinstance(t, threading.Timer)]
  for timer in left:
    timer.join()
  assert set(threading.enumerate()) <= before


def test_the_cache_keeps_what_was_used_last_within_its_bound():
  # First in, first out would drop "a"; a bound on the number of values, none.
  workers, made = data.Workers(0, cache_mb=10), []

  def get(key, megabytes):
    make = lambda: made.append(key) or key  # noqa: E731
    return workers.cached(key, make, lambda value: megabytes * 10**6)

  for key in "abacab":
    assert get(key, 4) == key
  assert made == ["a", "b", "c", "b"]
  get("large", 11)
  get("large", 11)
  assert made[4:] == ["large", "large"]
  get("a", 4)
  assert len(made) == 6


def test_no_cache_unless_asked_for():
  workers, made = data.Workers(0), []
  for _ in range(2):
    workers.cached("a", lambda: made.append(0), lambda value: 1)
  assert len(made) == 2


class Pictures:
  """Four images, of which a thread may ask for one at a time as for any."""

  name, skipped = "pictures", []

  def __init__(self):
    self.read = []

  def __len__(self):
    return 4

  def __getitem__(self, index):
    from fmd_jax.types import ImageExample

    self.read.append(index)
    return ImageExample(f"{index}", b"x" * 10**6)


@COUNTS
def test_batches_are_the_same_and_read_once_when_kept(count):
  plain = list(itertools.islice(data.batches(Pictures(), 2, seed=3), 6))
  source = Pictures()
  with data.Workers(count, cache_mb=5) as workers:
    kept = data.batches(source, 2, seed=3, workers=workers)
    assert list(itertools.islice(kept, 6)) == plain
  assert sorted(source.read) == [0, 1, 2, 3]
