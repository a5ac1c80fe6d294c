"""Asked to stop: at once, or where the run says that nothing is torn."""

import os
import signal
from concurrent.futures import Future

import pytest

from fmd_jax.hosts import Stopped
from fmd_jax.stopping import Stop


@pytest.fixture
def handlers():
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = [signal.getsignal(number) for number in numbers]
  yield
  for number, handler in zip(numbers, before, strict=True):
    signal.signal(number, handler)


def test_a_signal_stops_at_once_or_where_it_may(handlers):
  stop, done = Stop(), []
  stop.listen()
  with pytest.raises(Stopped, match="SIGTERM"):
    os.kill(os.getpid(), signal.SIGTERM)
  stop = Stop()
  stop.listen()
  with pytest.raises(Stopped), stop.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    done.append("the step")
    # Not an error that a broad `except` swallows.
    try:
      stop.check()
      done.append("nothing was raised")
    except Exception:
      done.append("handled")
  assert done == ["the step"]
  # The second Ctrl-C doesn't wait for a checkpoint.
  with pytest.raises(KeyboardInterrupt), stop.deferred():
    os.kill(os.getpid(), signal.SIGINT)


def test_its_end_asks_too():
  # Wrong: the request is forgotten between two methods.
  stop = Stop()
  with pytest.raises(Stopped), stop.deferred():
    stop.ask("the test")


def test_a_future_that_is_there_is_given():
  stop, future = Stop(), Future()
  future.set_result(3)
  assert stop.wait(future) == 3
  failed = Future()
  failed.set_exception(TimeoutError("of its own"))
  with pytest.raises(TimeoutError, match="of its own"):
    stop.wait(failed)
