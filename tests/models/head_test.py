"""The fused output head against log-softmax of all logits, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax.models import scoring
from tests.models import tiny

COUNT, TEMPERATURE = 37, 0.7


@functools.cache
def _model(tied, dtype=jnp.float32):
  graphdef, params = nnx.split(tiny.model(seed=3, tie_word_embeddings=tied))
  return nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(dtype), params))


@functools.cache
def _case():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(COUNT, 32)).astype(np.float32)
  allowed = rng.random(tiny.VOCABULARY) < 0.7
  tokens = rng.choice(np.flatnonzero(allowed), COUNT)
  return hidden, tokens, allowed, rng.normal(size=(2, COUNT)).astype(np.float32)


def _plain(model, hidden, tokens, allowed):
  kept = np.flatnonzero(allowed)
  logits = model.unembed(hidden)[:, kept] / TEMPERATURE
  logprobs = jax.nn.log_softmax(logits)
  chosen = logprobs[np.arange(COUNT), np.searchsorted(kept, tokens)]
  return chosen, -(jnp.exp(logprobs) * logprobs).sum(-1)


def _fused(chunk, model, hidden, tokens, allowed):
  return scoring.token_scores(
    model, hidden, tokens, allowed, temperature=TEMPERATURE, chunk=chunk
  )


def _scores_and_gradient(function, model):
  hidden, tokens, allowed, weights = _case()
  graphdef, params = nnx.split(model)

  def total(params, hidden):
    scores = function(nnx.merge(graphdef, params), hidden, tokens, allowed)
    return sum(jnp.vdot(s, w) for s, w in zip(scores, weights)), scores

  gradient, scores = jax.grad(total, (0, 1), has_aux=True)(params, hidden)
  name = "lm_head" if model.lm_head is not None else "language_model"
  (weight,) = [x for x in jax.tree.leaves(gradient[0][name]) if np.abs(x).max() > 0]
  return [*scores, gradient[1], weight]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("chunk", [COUNT, 8, 1])
def test_equals_log_softmax_in_value_and_gradient(tied, chunk):
  # The temperature missing in the backward pass, a forbidden token's gradient, the
  # entropy's left out, padding of the last chunk (37 = 4 * 8 + 5) or rows of a chunk
  # put back in another order would differ.
  model = _model(tied)
  wanted = _scores_and_gradient(_plain, model)
  got = _scores_and_gradient(functools.partial(_fused, chunk), model)
  for one, other in zip(got, wanted):
    scale = max(1, np.abs(other).max())
    np.testing.assert_allclose(one / scale, other / scale, atol=1e-5)


def test_weights_of_bfloat16_have_logits_of_float32():
  # Log-probs rounded to bfloat16 would be off by up to 2^-8 of their size, and a sum
  # over chunks in bfloat16 by more than the last rounding, 2^-9.
  model, exact = _model(False, jnp.bfloat16), _model(False)
  exact = nnx.merge(  # the same numbers, computed in fp32
    nnx.graphdef(exact),
    jax.tree.map(lambda x: x.astype(jnp.float32), nnx.state(model)),
  )
  wanted = _scores_and_gradient(_plain, exact)
  # 37 chunks: a sum kept in bfloat16 would lose a bit at each.
  got = _scores_and_gradient(functools.partial(_fused, 1), model)
  assert got[0].dtype == jnp.float32 and got[3].dtype == jnp.bfloat16
  for one, other, tolerance in zip(got, wanted, (0.02, 0.06, 0.02, 0.004)):
    error = np.abs(one.astype(np.float32) - other).max() / np.abs(other).max()
    assert error < tolerance, error


def _shapes(jaxpr):
  """The shapes of all values that a traced function makes, inner functions' too."""
  for equation in jaxpr.eqns:
    yield from (v.aval.shape for v in equation.outvars)
    for inner in jax.core.jaxprs_in_params(equation.params):
      yield from _shapes(inner)


def test_no_logits_of_the_whole_batch():
  # Whichever way they are laid out: [37, V] has more numbers than a chunk's [8, V] and
  # the weight's [32, V] together with nothing else.
  model = _model(False)
  graphdef, params = nnx.split(model)
  hidden, tokens, allowed, _ = _case()

  def largest(chunk):
    def total(params, hidden):
      model = nnx.merge(graphdef, params)
      return sum(x.sum() for x in _fused(chunk, model, hidden, tokens, allowed))

    jaxpr = jax.make_jaxpr(jax.grad(total, (0, 1)))(params, hidden).jaxpr
    return max(s[0] for s in _shapes(jaxpr) if s[-1:] == (tiny.VOCABULARY,) and s[1:])

  assert largest(COUNT) == COUNT
  assert largest(8) == 32  # the weight itself
