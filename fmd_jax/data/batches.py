"""The order in which a run sees its images."""

from collections.abc import Iterator

import numpy as np

from fmd_jax.data.sources import Source
from fmd_jax.data.workers import Workers
from fmd_jax.types import ImageExample


def batches(
  source: Source,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  host: int = 0,
  hosts: int = 1,
  workers: Workers | None = None,
) -> Iterator[list[ImageExample]]:
  """Yields batches for ever, from the one of `start_step` on.

  Every epoch is a new permutation; its last, incomplete batch is dropped, so that no
  batch holds an image twice. A batch depends on seed and step only: a resumed run
  needs no other cursor than its step.

  Args:
    source: the images.
    batch_size: images of this host in a batch.
    seed: seed of the permutations.
    start_step: the step of the first batch.
    host: index of this host.
    hosts: how many hosts there are; each gets its own part of every batch.
    workers: who read the images, and keep some; None: nobody else.

  Raises:
    ValueError: the source holds fewer images than one batch of all hosts.
  """
  if batch_size < 1:
    raise ValueError(f"a batch of {batch_size} images")
  if len(source) < batch_size * hosts:
    raise ValueError(
      f"{source.name} holds {len(source)} images, a batch needs {batch_size * hosts}: "
      f"use a batch size of at most {len(source) // hosts}"
    )
  workers = workers or Workers()
  return _batches(source, batch_size, seed, start_step, host, hosts, workers)


def _batches(source, batch_size, seed, step, host, hosts, workers):
  def read(index):
    key = (source.name, int(index))
    return workers.cached(key, lambda: source[int(index)], lambda x: len(x.png))

  per_epoch = len(source) // (batch_size * hosts)
  epoch, order = -1, None
  while True:
    if step // per_epoch != epoch:
      epoch = step // per_epoch
      order = np.random.default_rng((seed, epoch)).permutation(len(source))
    first = (step % per_epoch * hosts + host) * batch_size
    yield workers.map(read, order[first : first + batch_size])
    step += 1
