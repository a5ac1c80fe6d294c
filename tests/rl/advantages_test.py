"""Group advantages against loops, edge cases, and numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from fmd_jax import rl


def loop_advantages(rewards, mask, std_floor=0.0):
  """Plain Python over one image at a time; the statistics module's own std."""
  out = np.zeros(rewards.shape)
  for b in range(rewards.shape[0]):
    scored = [float(r) for r, m in zip(rewards[b], mask[b], strict=True) if m]
    if len(scored) < 2 or len(set(scored)) == 1:
      continue
    mean = sum(scored) / len(scored)
    std = (sum((r - mean) ** 2 for r in scored) / (len(scored) - 1)) ** 0.5
    for g in range(rewards.shape[1]):
      if mask[b, g]:
        out[b, g] = (rewards[b, g] - mean) / (max(std, std_floor) + 1e-6)
  return out


def test_golden():
  """Rewards 1, 2, 4: mean 7/3, std(ddof=1) 1.527525, 1e-6 beside it.

  ddof=0 would give -1.069045 first; a missing mean 0.654653; dividing by the
  variance -0.571428.
  """
  got = rl.group_advantages(jnp.array([[1.0, 2.0, 4.0]]), jnp.ones((1, 3), bool))
  np.testing.assert_allclose(got[0], [-0.8728710, -0.2182178, 1.0910888], atol=2e-6)


def test_masked_response_leaves_mean_and_std():
  """The third of 0, 1, (9), masked: mean .5, std .7071068.

  Counting it as 0 would give mean 1/3; counting it with its value, 10/3; NaN at
  the masked place must not spread either.
  """
  for filler in (9.0, np.nan):
    rewards = jnp.array([[0.0, 1.0, filler]])
    got = rl.group_advantages(rewards, jnp.array([[True, True, False]]))
    np.testing.assert_allclose(got[0], [-0.7071058, 0.7071058, 0.0], atol=1e-6)


@pytest.mark.parametrize("std_floor", [0.0, 0.4, 5.0])
def test_equals_the_loop(std_floor):
  """Another ddof, floor or mask rule breaks this at the first group."""
  generator = np.random.default_rng(0)
  rewards = generator.normal(size=(40, 8)).round(1)
  mask = generator.random((40, 8)) < 0.6
  got = rl.group_advantages(jnp.array(rewards), jnp.array(mask), std_floor)
  want = loop_advantages(rewards.astype(np.float32), mask, std_floor)
  np.testing.assert_allclose(got, want, atol=3e-5)


def test_std_floor_keeps_the_scale():
  """Two groups whose spreads differ tenfold under a floor above both stds.

  With the floor added instead of taken as a maximum the second factor would be
  about 9.4; with no floor both groups would get the same advantages.
  """
  rewards = jnp.array([[0.0, 0.1], [0.0, 0.01]])
  got = rl.group_advantages(rewards, jnp.ones((2, 2), bool), std_floor=1.0)
  np.testing.assert_allclose(got[0], [-0.05, 0.05], atol=1e-6)
  np.testing.assert_allclose(got[0] / got[1], 10.0, rtol=1e-4)


@pytest.mark.parametrize(
  ("rewards", "mask"),
  [
    ([0.1] * 7, [True] * 7),  # rounding of the mean over 1e-6 would be ~0.01
    ([0.3], [True]),  # one response: std of one value is NaN with ddof = 1
    ([0.3, 5.0, 2.0], [False, True, False]),  # one scored
    ([0.3, 5.0], [False, False]),  # none scored: 0/0
    ([0.2, 0.2, 7.0], [True, True, False]),  # equal where it counts
  ],
)
def test_no_information_no_advantage(rewards, mask):
  """Exactly 0, where a wrong implementation gives NaN or amplified rounding."""
  got = rl.group_advantages(jnp.array([rewards]), jnp.array([mask]))
  np.testing.assert_array_equal(np.asarray(got), np.zeros((1, len(mask))))


def test_question_advantages():
  """Slots 1, 2 | 4, unscored: normalised together, as if one group of three.

  Normalising inside each response would give -.707, .707 for the first and 0 for
  the second. Tags (-1) take the mean over the response's scored slots: dividing by
  K instead would halve the second response's tag.
  """
  rewards = jnp.array([[[1.0, 2.0], [4.0, np.nan]]])
  scored = jnp.array([[[True, True], [True, False]]])
  token_slots = jnp.array([[[-1, 0, 1, -1], [-1, 0, 0, 1]]])
  got = rl.question_advantages(rewards, scored, token_slots)
  first, second, third = -0.8728710, -0.2182178, 1.0910888
  mean = (first + second) / 2
  want = [[[mean, first, second, mean], [third, third, third, 0.0]]]
  np.testing.assert_allclose(got, want, atol=2e-6)
