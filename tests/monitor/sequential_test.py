"""The interval that may be looked at again and again, by simulation."""

import functools
import math

import numpy as np
import pytest

from fmd_jax.monitor import gap_interval

ROWS, STEP_ROWS, EVERY, WINDOW = 80, 192, 5, 20  # the quickstart's
CHECKS = 160 // EVERY
TAIL = 0.05 / (4 * CHECKS)
interval = functools.cache(gap_interval)


def looks(generator, gaps):
  """[CHECKS, 3] more, same, less among the rows of each look, drawn from a step of
  `STEP_ROWS` whose true gap is given; one row in eight differs anyway, either way.
  """
  more = np.round((np.asarray(gaps) + 1 / 16) * STEP_ROWS).astype(int)
  less = np.full(len(more), STEP_ROWS // 16)
  sides = np.stack([more, STEP_ROWS - more - less, less], 1)
  return np.stack([generator.multivariate_hypergeometric(s, ROWS) for s in sides])


def windows(found):
  """What the monitor takes together at each look."""
  size = WINDOW // EVERY
  return [found[max(0, k - size + 1) : k + 1].sum(0) for k in range(len(found))]


def test_looking_at_every_step_gives_few_false_alarms():
  """2 000 runs whose gap is what is allowed, stopped at the first alarm: at most 5 %
  have one. An interval made for one look has one in more than a tenth of the runs.
  """
  generator = np.random.default_rng(0)
  allowed = 10 / STEP_ROWS
  false, naive, missed = 0, 0, 0
  for _ in range(2000):
    found = windows(looks(generator, [allowed] * CHECKS))
    ends = [interval(*map(int, counts), TAIL) for counts in found]
    false += any(low > allowed for low, _ in ends)
    missed += any(not low <= allowed <= high for low, high in ends)
    n = np.array([c.sum() for c in found])
    mean = np.array([c[0] - c[2] for c in found]) / n
    spread = np.array([c[0] + c[2] for c in found]) / n - mean**2
    naive += bool((mean - 1.96 * np.sqrt(spread / n) > allowed).any())
  assert false <= 0.05 * 2000 and missed <= 0.05 * 2000, (false, missed)
  assert naive > 0.1 * 2000, naive


def test_a_growing_gap_is_found_in_time():
  """From step 40 on one point a step: past 10 points at step 50, told by step 70."""
  generator = np.random.default_rng(1)
  steps = np.arange(EVERY - 1, 160, EVERY)
  gaps = np.clip((steps - 40) * 0.01, 0, 0.5)
  told = []
  for _ in range(300):
    found = windows(looks(generator, gaps))
    at = [
      step
      for step, counts in zip(steps, found)
      if interval(*map(int, counts), TAIL)[0] > 0.05
    ]
    told.append(at[0] if at else math.inf)
  assert np.mean(np.array(told) <= 70) >= 0.9, np.quantile(told, [0.5, 0.95])
  assert min(told) >= 44


def test_the_interval_is_that_of_the_gamblers():
  """By a grid and plain products; and what is known without them."""

  def money(more, same, less, mean):
    shares = [k / 16 / (1 + mean) for k in range(1, 16)]
    return np.mean(
      [
        (1 + s * (1 - mean)) ** more
        * (1 - s * mean) ** same
        * (1 - s * (1 + mean)) ** less
        for s in shares
      ]
    )

  grid = np.linspace(-0.999, 0.999, 1999)
  for counts in ((12, 25, 3), (0, 40, 0), (40, 0, 0), (3, 25, 12)):
    low, high = gap_interval(*counts, 0.01)
    left = [m for m in grid if money(*counts, m) < 100]
    assert low == pytest.approx(min(left), abs=2e-3)
    mirrored = gap_interval(*counts[::-1], 0.01)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]))
    assert low <= (counts[0] - counts[2]) / 40 <= high
  assert gap_interval(0, 0, 0, 0.01) == (-1.0, 1.0)
