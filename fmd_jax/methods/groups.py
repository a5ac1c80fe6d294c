"""Groups, an image's G responses each, between questioner and update: which of them
have their verdicts in time, and what a step trains on.

Axes: B images of a batch, of which b are this process's · G responses · T tokens.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fmd_jax import hosts, rollout, sharding
from fmd_jax.methods.run import Run
from fmd_jax.questioner.inputs import Inputs
from fmd_jax.questioner.sampler import Samples
from fmd_jax.types import ImageExample, Question

SAMPLED = ("tokens", "logprobs", "lengths")


class Asked(NamedTuple):
  """One step's images and what the questioner said about them.

  Attributes:
    step: that asked for them, and trains on them unless they are late.
    policy_step: of the policy that spoke; smaller by the staleness.
    images: this process's, b.
    inputs: what the questioner saw of all images; None once they are trained on.
    samples: what it said.
    judged: the verdicts, when they are there: of all images as one or, where they may
      be late, of each.
    seconds: that sampling took.
  """

  step: int
  policy_step: int
  images: list[ImageExample]
  inputs: Inputs | None
  samples: Samples
  judged: list[Future[rollout.Judged]]
  seconds: float


class Group(NamedTuple):
  """The group of one image: where it is in its step's batch on this process."""

  asked: Asked
  place: int

  @property
  def image(self) -> ImageExample:
    return self.asked.images[self.place]

  @property
  def judged(self) -> Future[rollout.Judged]:
    return self.asked.judged[self.place]


class Batch(NamedTuple):
  """What a step trains on: groups whose verdicts are in, among others that are not.

  Attributes:
    images: of the n groups of this process, which the rewards are of.
    asked_at: (step, policy_step) of each.
    inputs, samples: of at least as many groups, `size` of this process.
    places: [n] where the n are among those.
    size: b, or twice that.
    carried: whether groups of the step before are among them, on any process.
  """

  images: list[ImageExample]
  asked_at: list[tuple[int, int]]
  inputs: Inputs
  samples: Samples
  places: np.ndarray
  size: int
  carried: bool = False

  def own_samples(self) -> Samples:
    """Those of the n groups, on this process."""
    if len(self.places) == self.size:
      return self.samples
    return Samples(*(jnp.asarray(x[self.places]) for x in _own(self.samples)), None)

  def spread(self, values: np.ndarray) -> np.ndarray:
    """[n, ...] of the n groups in their places; the others have zeros."""
    if len(self.places) == self.size:
      return values
    out = np.zeros((self.size, *values.shape[1:]), values.dtype)
    out[self.places] = values
    return out


def late(
  run: Run, carried: Sequence[Group], fresh: Sequence[Group], last: bool
) -> list[Group]:
  """Waits for verdicts, as long as the config says; those of `fresh` that stay out.

  What the step before carried over is waited for, and so is half of the others; at the
  last step all are.

  Raises:
    InferenceError: as soon as one of them can't be judged.
    Stopped: the run is to stop.
  """
  begun = time.monotonic()
  while True:
    for group in (*carried, *fresh):
      if group.judged.done():
        group.judged.result()  # an error is raised now
    owed = [group for group in carried if not group.judged.done()]
    slow = [group for group in fresh if not group.judged.done()]
    if not owed and not slow:
      return []
    may_go = not owed and not last and len(slow) <= len(fresh) // 2
    if may_go and _is_over(begun + run.config.rollout.late):
      return slow
    run.stop.pause([group.judged for group in (*owed, *slow)])


def _is_over(end: float) -> bool:
  return time.monotonic() >= end


def verdicts(groups: Sequence[Group], step: int) -> rollout.Judged:
  """Those of groups that are in, as one.

  Of a group that was carried over the responses are counted from G on: its image may
  come again among the step's own.
  """
  parts = []
  for group in groups:
    part = group.judged.result()
    if group.asked.step < step:
      slots = [_after(part.shape[1], *slot) for slot in part.slots]
      part = dataclasses.replace(part, slots=slots)
    parts.append(part)
  return rollout.join(parts)


def _after(size: int, question: Question, *said: Any) -> tuple:
  index = question.response_index + size
  return dataclasses.replace(question, response_index=index), *said


def make_batch(run: Run, groups: Sequence[Group], asked: Asked) -> Batch:
  """The batch of groups that are in, of which some may be of the step before.

  All processes call it together. Without any of the step before it is that of
  `asked`, the late ones left out by `places`. Else its groups move together: it has
  the size of `asked` or, where they are too many on some process, twice that.
  """
  size = len(asked.images)
  images = [group.image for group in groups]
  asked_at = [(group.asked.step, group.asked.policy_step) for group in groups]
  carried = any(step < asked.step for step, _ in asked_at)
  told = hosts.exchange((len(groups), carried))
  if not any(some for _, some in told):
    places = np.array([group.place for group in groups])
    return Batch(images, asked_at, asked.inputs, asked.samples, places, size)
  if max(number for number, _ in told) > size:
    size *= 2
  # What fills it up counts nowhere.
  filled = [*groups, *[groups[0]] * (size - len(groups))]
  encoded = run.agent.encode([group.image for group in filled], run.workers)
  inputs = run.agent.place(encoded)
  own = {group.asked.step: _own(group.asked.samples) for group in groups}
  rows = ([x[g.place] for x in own[g.asked.step]] for g in filled)
  joined = (run.agent.join(np.stack(part)) for part in zip(*rows, strict=True))
  samples = Samples(*joined, None)
  return Batch(images, asked_at, inputs, samples, np.arange(len(groups)), size, True)


def _own(samples: Samples) -> list[np.ndarray]:
  """What of `SAMPLED` is of this process's images."""
  return [sharding.own(jnp.asarray(getattr(samples, name))) for name in SAMPLED]
