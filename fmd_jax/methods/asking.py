"""Batches that are asked ahead of the training, and wait for their verdicts."""

import collections
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fmd_jax import hosts, rollout
from fmd_jax.methods.run import Run
from fmd_jax.questioner.inputs import Inputs
from fmd_jax.questioner.sampler import Samples
from fmd_jax.types import ImageExample

_FIELDS = ("tokens", "logprobs", "lengths")


class Asked(NamedTuple):
  """One step's images and what the questioner said about them.

  Attributes:
    step: that trains on it.
    policy_step: of the policy that spoke; smaller by the staleness.
    images: this process's.
    inputs: what the questioner saw of all images.
    samples: what it said.
    judged: the verdicts, when they are there.
    seconds: that sampling took.
  """

  step: int
  policy_step: int
  images: list[ImageExample]
  inputs: Inputs
  samples: Samples
  judged: Future[rollout.Judged]
  seconds: float


class Asking:
  """The batches of the steps from `start` on, asked `staleness` steps ahead.

  With 0 a step is asked by the policy that it trains. With 1 the next one is asked
  before the update, by a policy one step older, while this one's verdicts come in.
  """

  def __init__(
    self, run: Run, start: int, flying: Mapping[str, np.ndarray], params: Any
  ):
    """Goes on where a checkpoint was made.

    Args:
      run: the run.
      start: the first step.
      flying: from `flying` at that step; {} when nothing was in flight.
      params: of any policy, for the images' features.
    """
    self._run, self._next = run, start
    self._source = run.prepared(run.batches(start), run.config.steps - start)
    self._queue: collections.deque[Asked] = collections.deque()
    if flying:
      images, inputs = next(self._source)
      key = run.key(start)
      samples = Samples(
        *(run.agent.join(jnp.asarray(_own(flying[name]))) for name in _FIELDS),
        run.agent.features(params, inputs, key),
      )
      self._put(images, inputs, samples, int(flying["policy_step"][0]), 0.0)

  def at(self, step: int, params: Any) -> Asked:
    """The batch of a step; those that are due by then are asked with `params`."""
    while self._queue and self._queue[0].step < step:
      self._queue.popleft()
    last = min(step + self._run.config.rollout.staleness, self._run.config.steps - 1)
    while self._next <= last:
      begun = time.perf_counter()
      images, inputs = next(self._source)
      samples = self._run.agent.sample(params, inputs, self._run.key(self._next))
      self._put(images, inputs, samples, step, begun)
    return self._queue[0]

  def _put(self, images, inputs, samples, policy_step, begun) -> None:
    texts = self._run.agent.texts(samples)
    seconds = time.perf_counter() - begun if begun else 0.0
    judged = self._run.hand(images, texts, self._next, rewarded=True)
    self._queue.append(
      Asked(self._next, policy_step, images, inputs, samples, judged, seconds)
    )
    self._next += 1

  def flying(self, step: int) -> dict[str, np.ndarray]:
    """What a checkpoint before a step needs: the batch that an older policy asked.

    Whatever else is in flight the policy of the checkpoint asks again, with the same
    words; and the judges are asked again too.
    """
    for asked in self._queue:
      if asked.step == step and asked.policy_step < step:
        arrays = {n: hosts.whole(getattr(asked.samples, n)) for n in _FIELDS}
        return arrays | {"policy_step": np.array([asked.policy_step])}
    return {}


def _own(value: np.ndarray) -> np.ndarray:
  """This process's part of what is about all images."""
  return np.split(value, hosts.count())[hosts.index()]
