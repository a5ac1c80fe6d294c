"""Sizes rounded up, so that batches share a few compiled programs."""


def bucket(size: int, parts: int, least: int = 1) -> int:
  """The bucket that holds `size`: a multiple of `least`.

  Args:
    size: what must fit.
    parts: buckets an octave. At most 1 / parts of a size is added, above
      `parts * least`; 1 gives powers of two.
    least: the smallest bucket, and the smallest step between two.
  """
  octave = 1 << max(size.bit_length() - 1, 0)
  step = max(least, octave // parts)
  return max(-(-size // step) * step, least)
