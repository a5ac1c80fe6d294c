"""Batches that are asked ahead of the training, and wait for their verdicts."""

import collections
import time
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fmd_jax import hosts, rewards, rollout
from fmd_jax.methods import groups
from fmd_jax.methods.groups import SAMPLED, Asked, Batch, Group
from fmd_jax.methods.run import Run
from fmd_jax.questioner.sampler import Samples

_CARRIED = "carried."


class Asking:
  """The batches of the steps from `start` on, asked `staleness` steps ahead.

  With 0 a step is asked by the policy that it trains. With 1 the next one is asked
  before the update, by a policy one step older, while this one's verdicts come in.

  With `rollout.late` a step goes on without the groups whose verdicts are late: they
  are scored and trained on at the next step, with its own.
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
    # The step before, its groups that were late, and which of all processes' [B] are.
    self._before: Asked | None = None
    self._carried: list[Group] = []
    self._places: np.ndarray | None = None
    self._late: list[Group] = []
    if _CARRIED + "places" in flying:
      self._carry_again(start - 1, flying)
    if "tokens" in flying:
      images, inputs = next(self._source)
      features = run.agent.features(params, inputs, run.key(start))
      samples = self._samples(flying, "", features)
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

  def score(self, asked: Asked, banks: rewards.Banks) -> rollout.Rollout:
    """Waits for the verdicts of a step, and scores them: see `Run.score`.

    What is late stays out of it; `batch` then has the rest.
    """
    run = self._run
    if not run.config.rollout.late:
      return run.score(asked.judged[0], banks)

    def wait(fresh: list[Group]) -> rollout.Judged:
      last = asked.step + 1 == run.config.steps
      self._late = groups.late(run, self._carried, fresh, last)
      return groups.verdicts(self._in_time(fresh), asked.step)

    return rollout.score(_all(asked), banks, run.reward, wait)

  def batch(self, asked: Asked) -> Batch:
    """What the step trains on, once it is scored; what was late is the next one's."""
    if not self._run.config.rollout.late:
      size = len(asked.images)
      asked_at = [(asked.step, asked.policy_step)] * size
      places = np.arange(size)
      return Batch(asked.images, asked_at, asked.inputs, asked.samples, places, size)
    found = groups.make_batch(self._run, self._in_time(_all(asked)), asked)
    own = np.zeros(len(asked.images), np.uint8)
    own[[group.place for group in self._late]] = 1
    self._carry(asked, np.concatenate(hosts.exchange(own)))
    return found

  def late(self) -> int:
    """How many groups of all processes go into the next step."""
    return 0 if self._places is None else int(self._places.sum())

  def _carry(self, asked: Asked, places: np.ndarray) -> None:
    # Its features and its view of the images are not needed again.
    samples = asked.samples._replace(image_features=None)
    self._before = asked._replace(inputs=None, samples=samples)
    self._places, self._late = places, []
    own = np.flatnonzero(_own(places))
    self._carried = [Group(self._before, int(place)) for place in own]

  def _in_time(self, fresh: list[Group]) -> list[Group]:
    late = {group.place for group in self._late}
    return [*self._carried, *(group for group in fresh if group.place not in late)]

  def _put(self, images, inputs, samples, policy_step, begun) -> None:
    texts = self._run.agent.texts(samples)
    seconds = time.perf_counter() - begun if begun else 0.0
    judged = self._hand(images, texts, self._next)
    self._queue.append(
      Asked(self._next, policy_step, images, inputs, samples, judged, seconds)
    )
    self._next += 1

  def _hand(self, images, texts, step) -> list:
    """Hands over all images as one or, where they may be late, each."""
    size = 1 if self._run.config.rollout.late else len(images)
    return [
      self._run.hand(images[at : at + size], texts[at : at + size], step, rewarded=True)
      for at in range(0, len(images), size)
    ]

  def flying(self, step: int) -> dict[str, np.ndarray]:
    """What a checkpoint before a step needs: the batch that an older policy asked, and
    the one before it if groups of it were carried over.

    Whatever else is in flight the policy of the checkpoint asks again, with the same
    words; and the judges are asked again too.
    """
    arrays = {}
    for asked in self._queue:
      if asked.step == step and asked.policy_step < step:
        arrays |= _kept(asked)
    if self.late():
      kept = _kept(self._before) | {"places": self._places}
      arrays |= {_CARRIED + name: value for name, value in kept.items()}
    return arrays

  def _carry_again(self, step: int, flying: Mapping[str, np.ndarray]) -> None:
    """The groups of a step that a checkpoint has, back in the judges' hands."""
    run = self._run
    images = next(run.batches(step))
    samples = self._samples(flying, _CARRIED, None)
    judged = self._hand(images, run.agent.texts(samples), step)
    policy_step = int(flying[_CARRIED + "policy_step"][0])
    asked = Asked(step, policy_step, images, None, samples, judged, 0.0)
    self._carry(asked, flying[_CARRIED + "places"])

  def _samples(self, flying, prefix: str, features: Any) -> Samples:
    join = self._run.agent.join
    own = (jnp.asarray(_own(flying[prefix + name])) for name in SAMPLED)
    return Samples(*(join(value) for value in own), features)


def _all(asked: Asked) -> list[Group]:
  return [Group(asked, place) for place in range(len(asked.images))]


def _kept(asked: Asked) -> dict[str, np.ndarray]:
  arrays = {name: hosts.whole(getattr(asked.samples, name)) for name in SAMPLED}
  return arrays | {"policy_step": np.array([asked.policy_step])}


def _own(value: np.ndarray) -> np.ndarray:
  """This process's part of what is about all images."""
  return np.split(value, hosts.count())[hosts.index()]
