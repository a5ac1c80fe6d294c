"""Completions cut to a bucket before the update: cheaper, and nothing else."""

import numpy as np
import pytest

from fmd_jax import update
from tests import update_test as shared
from tests.models import tiny

B, G, T = shared.B, shared.G, shared.T


@pytest.mark.slow
def test_trimmed_completions_give_the_same_gradient():
  # Cut by one more, the longest response loses its end token; an array left out of
  # the cut has another shape, and the update refuses it.
  rng = np.random.default_rng(3)
  longest, room = 16, 40
  lengths = rng.integers(3, longest, (B, G)).astype(np.int32)
  lengths[3, 1] = longest
  batch = shared._fresh()._replace(
    completions=rng.integers(0, tiny.WORDS, (B, G, room)).astype(np.int32),
    lengths=lengths,
    old_logprobs=rng.normal(-6, 0.3, (B, G, room)).astype(np.float32),
    advantages=rng.normal(size=(B, G, room)).astype(np.float32),
    token_weights=rng.random((B, G, room), np.float32),
  )
  trimmed = update.trim(batch)
  for name in ("completions", "old_logprobs", "advantages", "token_weights"):
    assert getattr(trimmed, name).shape == (B, G, longest), name
  state, update_fn = shared._state(shared._model()), shared._update_fn()
  whole, metrics = shared._gradient(update_fn, state, batch)
  cut, others = shared._gradient(update_fn, state, trimmed)
  assert metrics["grpo/grad_norm"] > 0.01
  shared._assert_close(whole, cut, 5e-6)
  for name, value in metrics.items():
    np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)


def test_trimming_leaves_few_lengths():
  # The exact longest length would be a program for each; 256 a step costs up to 16
  # times what short responses need.
  fresh, whole, lengths = shared._fresh(), 256, set()
  long = fresh._replace(
    completions=np.zeros((B, G, whole), np.int32),
    old_logprobs=np.zeros((B, G, whole), np.float32),
    token_weights=None,
  )
  for longest in range(1, whole + 1):
    cut = update.trim(long._replace(lengths=np.full((B, G), longest, np.int32)))
    assert cut.old_logprobs.shape == cut.completions.shape
    assert cut.advantages is fresh.advantages and cut.token_weights is None
    length = cut.completions.shape[-1]
    assert longest <= length <= max(1.5 * longest, longest + 15)
    lengths.add(length)
  assert len(lengths) <= 8 and max(lengths) == whole
  # Less room than the first bucket: nothing is made up.
  assert update.trim(fresh).completions.shape == (B, G, T)
