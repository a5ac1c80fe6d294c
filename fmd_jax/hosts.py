"""The processes of one run: one a host, each with its own images and all in step.

What they tell each other goes over the devices, so every process makes the same calls
in the same order, from its main thread. A run of one process asks nobody.
"""

import glob
import importlib.util
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from absl import logging

T = TypeVar("T")
AUTO = "auto"


class HostError(RuntimeError):
  """Something went wrong on another process of the run."""


class Stopped(BaseException):
  """The run was asked to stop; what it has done is kept. See `fmd_jax.stopping`.

  Like KeyboardInterrupt it is no error that somebody may handle.
  """


def initialize(
  coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
  """Joins the processes of a run, before anything else is asked of JAX.

  Args:
    coordinator: host:port of the first process; "auto" asks the cluster (TPU pods,
      SLURM, GKE's JobSet, Open MPI); None does so where it sees one of several tasks.
    count: processes in all.
    index: which of them this is.

  Raises:
    ValueError: not all three are given, or the cluster is none that JAX knows.
    RuntimeError: the others did not come.
  """
  given = (coordinator, count, index)
  if coordinator == AUTO or (given == (None,) * 3 and _in_a_cluster(os.environ)):
    jax.distributed.initialize()
  elif None not in given:
    if not 0 <= index < count:
      raise ValueError(f"process {index} of {count}: they are counted from 0")
    # What CPUs talk through; no other platform asks.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, count, index)
  elif given != (None,) * 3:
    raise ValueError(
      "one process of several needs all of --coordinator, --num_processes and "
      "--process_id"
    )
  if jax.process_count() > 1:
    logging.info("process %d of %d", jax.process_index(), jax.process_count())


def _in_a_cluster(environment: Mapping[str, str]) -> bool:
  """Whether this is one of several tasks, or a TPU VM, which says itself how many."""
  names = environment.get("TPU_WORKER_HOSTNAMES", "")
  tasks = environment.get("SLURM_NTASKS", "1")
  if "," in names or (int(tasks) > 1 and "SLURM_PROCID" in environment):
    return True
  if environment.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu" or names:
    return False
  chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
  return bool(chips) and importlib.util.find_spec("libtpu") is not None


def index() -> int:
  """Which of the processes this is; the first writes what there is one of."""
  return jax.process_index()


def count() -> int:
  """How many processes there are."""
  return jax.process_count()


def part() -> None:
  """Lets the processes go their own ways, once all have come here.

  What follows must not compute on the devices of all.
  """
  if jax.process_count() > 1 and jax.distributed.is_initialized():
    jax.distributed.shutdown()


def exchange(value: T) -> list[T]:
  """Everyone's values, in the order of the processes, on every process."""
  if jax.process_count() == 1:
    return [value]
  from jax.experimental import multihost_utils

  own = np.frombuffer(pickle.dumps(value), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([len(own)]))[:, 0]
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(own)] = own
  whole = np.asarray(multihost_utils.process_allgather(padded))
  pairs = zip(whole, sizes, strict=True)
  return [pickle.loads(row[:size].tobytes()) for row, size in pairs]


class _Outcome(NamedTuple):
  value: Any
  error: str
  stopped: bool


def together(make: Callable[[], T]) -> list[T]:
  """What `make` gives on each process; where it fails on one, all of them raise.

  None is left waiting for one that will not come.

  Raises:
    Stopped: a process was asked to stop.
    HostError: another one failed; this one's own error is raised as it is.
  """
  own, outcome = None, _Outcome(None, "", False)
  try:
    outcome = outcome._replace(value=make())
  except (Exception, Stopped) as error:
    if jax.process_count() == 1:
      raise
    own = error
    stopped = isinstance(error, Stopped)
    outcome = _Outcome(None, f"{type(error).__name__}: {error}", stopped)
  everyone = exchange(outcome)
  if own is not None:
    raise own
  if any(each.stopped for each in everyone):
    raise Stopped("another process was asked to stop")
  for i, each in enumerate(everyone):
    if each.error:
      raise HostError(f"process {i} of {len(everyone)}: {each.error}")
  return [each.value for each in everyone]


def from_first(make: Callable[[], T]) -> T:
  """What `make` gives on the first process, on all of them; the others don't call."""
  return together(lambda: make() if jax.process_index() == 0 else None)[0]


def whole(value: jax.Array) -> np.ndarray:
  """All of an array that lies on the devices of all processes."""
  if not isinstance(value, jax.Array) or value.is_fully_addressable:
    return np.asarray(value)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(value, tiled=True))
