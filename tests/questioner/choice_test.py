"""The draw of one token: its noise, its ties, what is left of a distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmd_jax.questioner import choice
from tests.questioner.sampling import log_softmax


def test_noise_is_that_of_jax_random():
  # Another bit order, counter or rounding: other numbers, and every row of a run drawn
  # anew. Rows are skipped, not renumbered.
  key = jax.random.fold_in(jax.random.key(7), 3)
  wanted = np.asarray(jax.random.gumbel(key, (6, 37)))
  rows = np.array([[4, 0], [5, 2]])
  got = np.asarray(jax.jit(choice.gumbel, static_argnums=2)(key, rows, 37))
  np.testing.assert_array_equal(got, wanted[rows])
  with pytest.raises(ValueError, match="threefry"):
    choice.gumbel(jax.random.key(0, impl="rbg"), rows, 37)


def test_choice_of_equals_is_the_first():
  # As jnp.argmax; the last of equals, or a token that is not allowed, would show.
  logits = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, 0.5]])
  tokens, logprobs = choice.choose(logits, None)
  assert tokens.tolist() == [1, 2]
  np.testing.assert_allclose(logprobs, [-np.log(2 + np.exp(-2)), 0], rtol=1e-6)


@pytest.mark.parametrize(
  "kwargs", [{"top_p": 0.6}, {"top_k": 3}, {"top_p": 0.5, "temperature": 2.0}]
)
def test_truncated_distributions(kwargs):
  # Brute force: walk down the sorted probabilities. Cutting before the token that
  # crosses top_p, or applying it before the temperature, keeps another set.
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(50, 12)).astype(np.float32) * 2
  allowed = rng.random(12) < 0.8
  temperature = kwargs.pop("temperature", 1.0)
  got = choice.masked_logits(
    jnp.asarray(logits), jnp.asarray(allowed), temperature, **kwargs
  )
  for row, result in zip(logits, np.asarray(got), strict=True):
    probs = np.exp(log_softmax(np.where(allowed, row / temperature, -np.inf)))
    kept, mass = set(), 0.0
    for token in np.argsort(-probs, kind="stable"):
      full = mass >= kwargs.get("top_p", 2) or len(kept) >= kwargs.get("top_k", 99)
      if full or not allowed[token]:
        break
      kept.add(int(token))
      mass += probs[token]
    assert set(np.flatnonzero(np.isfinite(result)).tolist()) == kept
