"""AdamW against a few lines of NumPy; the schedule and the clip by their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmd_jax import optim

_ADAM = {"b1": 0.9, "b2": 0.95, "eps": 1e-6}


def _steps(optimizer, params, gradients):
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params


def test_adamw_equals_numpy():
  # Decay inside the gradient (plain Adam with L2), a missing bias correction or a
  # decayed norm would differ.
  rng = np.random.default_rng(0)
  params = {"kernel": rng.normal(size=(3, 2)), "norm": {"scale": rng.normal(size=2)}}
  gradients = [jax.tree.map(lambda x: rng.normal(size=x.shape), params) for _ in "abcd"]
  rate, decay = 0.1, 0.3
  optimizer = optim.make_optimizer(rate, weight_decay=decay, max_grad_norm=0.0, **_ADAM)
  got = _steps(optimizer, jax.tree.map(jnp.asarray, params), gradients)

  def adamw(value, series, decayed):
    m = v = 0.0
    for t, g in enumerate(series, 1):
      m = _ADAM["b1"] * m + (1 - _ADAM["b1"]) * g
      v = _ADAM["b2"] * v + (1 - _ADAM["b2"]) * g * g
      step = (m / (1 - _ADAM["b1"] ** t)) / (
        np.sqrt(v / (1 - _ADAM["b2"] ** t)) + _ADAM["eps"]
      )
      value = value - rate * (step + decayed * value)
    return value

  kernel = adamw(params["kernel"], [g["kernel"] for g in gradients], decay)
  scale = adamw(params["norm"]["scale"], [g["norm"]["scale"] for g in gradients], 0.0)
  np.testing.assert_allclose(got["kernel"], kernel, rtol=2e-4, atol=1e-5)
  np.testing.assert_allclose(got["norm"]["scale"], scale, rtol=2e-4, atol=1e-5)


def test_clip_is_global():
  # Clipping each leaf by itself would leave both at norm 1. Adam hides a common scale,
  # so that the moments are looked at.
  optimizer = optim.make_optimizer(0.1, weight_decay=0.0, max_grad_norm=1.0, **_ADAM)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  state = optimizer.init(params)
  _, state = optimizer.update(
    {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, state, params
  )
  mean = state[1][0].mu
  np.testing.assert_allclose(mean["a"] / 0.1, 0.6, rtol=1e-5)
  np.testing.assert_allclose(mean["b"] / 0.1, 0.8, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_warmup_then_constant(warmup):
  # optax's own warm-up starts at 0: the first update would do nothing.
  schedule = optim.learning_rate_schedule(0.2, warmup_steps=warmup)
  expected = [0.2 * min(1.0, (n + 1) / max(warmup, 1)) for n in range(8)]
  np.testing.assert_allclose([schedule(n) for n in range(8)], expected, rtol=1e-6)


def test_cosine_after_warmup():
  # A cosine that started with the warm-up would be past its peak at step 2.
  schedule = optim.learning_rate_schedule(
    1.0, warmup_steps=2, decay_steps=10, end_scale=0.1
  )
  got = [float(schedule(n)) for n in (0, 1, 2, 7, 12, 50)]
  np.testing.assert_allclose(got, [0.5, 1.0, 1.0, 0.55, 0.1, 0.1], rtol=1e-6)
