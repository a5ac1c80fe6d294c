"""Buckets: large enough, few, and no larger than they must be."""

import pytest

from fmd_jax.models.buckets import bucket


@pytest.mark.parametrize(
  "parts,least,wasted,number", [(8, 8, 1.125, 60), (2, 16, 1.5, 17), (1, 1, 2, 13)]
)
def test_buckets_are_few_and_tight(parts, least, wasted, number):
  # Steps of the octave above would waste twice as much; the exact size compiles
  # every time.
  sizes = range(1, 4097)
  buckets = [bucket(n, parts, least) for n in sizes]
  assert all(b >= n and b % least == 0 for n, b in zip(sizes, buckets, strict=True))
  assert buckets == sorted(buckets)
  large = [(n, b) for n, b in zip(sizes, buckets, strict=True) if n > parts * least]
  assert max(b / n for n, b in large) <= wasted
  assert len(set(buckets)) <= number
  assert bucket(0, parts, least) == least
