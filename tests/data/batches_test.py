import itertools

import pytest

from fmd_jax import data


class Numbers:
  """A source whose images are their own index."""

  name, skipped = "numbers", []

  def __init__(self, size):
    self._size = size

  def __len__(self):
    return self._size

  def __getitem__(self, index):
    return range(self._size)[index]


def take(count, *args, **kwargs):
  return list(itertools.islice(data.batches(*args, **kwargs), count))


def test_an_epoch_shows_every_image_once_and_the_next_another_order():
  # Wrong: the permutation drawn once (the same order every epoch), or sampling with
  # replacement (some images twice before others once).
  found = take(8, Numbers(12), 3, seed=0)
  first, second = sum(found[:4], []), sum(found[4:], [])
  assert sorted(first) == sorted(second) == list(range(12))
  assert first != second
  assert take(8, Numbers(12), 3, seed=1) != found


def test_no_batch_holds_an_image_twice():
  # Wrong: batches that run over the end of an epoch; 5 images in batches of 3 then
  # repeat one within a batch sooner or later, and two groups share an image.
  assert all(len(set(batch)) == 3 for batch in take(50, Numbers(5), 3, seed=0))


def test_resuming_at_a_step_gives_the_batches_of_the_unbroken_run():
  # Wrong: a generator seeded anew on resume starts the epoch over.
  whole = take(20, Numbers(10), 3, seed=4)
  assert take(9, Numbers(10), 3, seed=4, start_step=11) == whole[11:]


def test_hosts_share_a_batch_without_overlap():
  # Wrong: each host permutes for itself, and images repeat within a global batch.
  alone = take(6, Numbers(12), 4, seed=2)
  parts = [take(6, Numbers(12), 2, seed=2, host=h, hosts=2) for h in range(2)]
  assert [a + b for a, b in zip(*parts, strict=True)] == alone


def test_too_few_images_for_a_batch_is_said_at_once():
  # Wrong: raised at the first `next`, after the models have been loaded.
  with pytest.raises(ValueError, match="holds 5 images, a batch needs 8: .*at most 5"):
    data.batches(Numbers(5), 8, seed=0)
