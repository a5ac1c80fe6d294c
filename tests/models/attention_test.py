"""The fused kernel, run without a TPU, and blocks of queries, against products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmd_jax.models import attention

B, H, WIDTH = 2, 4, 128


def case(group, length, prompt, kv_heads, seed=0):
  rng = np.random.default_rng(seed)
  make = lambda *shape: jnp.array(rng.normal(size=shape), jnp.float32)  # noqa: E731
  q = make(B, group, length, H, WIDTH)
  k, v = (make(B, group, length, kv_heads, WIDTH) for _ in range(2))
  shared = None
  if prompt:
    # The second image's prompt is shorter: its padding must not be seen.
    real = jnp.arange(prompt) < jnp.array([[prompt], [prompt // 2]])
    shared = (*(make(B, prompt, kv_heads, WIDTH) for _ in range(2)), real)
  return q, k, v, shared


@pytest.mark.parametrize(
  ("group", "length", "prompt", "kv_heads"),
  [(1, 130, 0, 2), (3, 50, 70, 1)],
  ids=["prompt", "responses"],
)
def test_fused_attention_equals_products(group, length, prompt, kv_heads):
  # Wrong: a response sees another's tokens, a query what comes after it, a token the
  # padding of its prompt; heads in another order.
  q, k, v, shared = case(group, length, prompt, kv_heads)
  causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
  weight = jnp.array(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

  def total(attend, *qkv):
    out = attend(*qkv)
    return (out * weight).sum(), out

  def both(attend):
    f = jax.value_and_grad(lambda *qkv: total(attend, *qkv), (0, 1, 2), has_aux=True)
    (_, out), gradients = jax.jit(f)(q, k, v)
    return out, *gradients

  wanted = both(lambda *qkv: attention.multiplied(*qkv, causal, shared))
  fused = both(lambda *qkv: attention.fused(*qkv, shared, interpret=True))
  # In blocks, of which the last is not full.
  blocks = both(lambda *qkv: attention.causal(*qkv, shared, block=48))
  for got in (fused, blocks):
    for name, one, other in zip("oqkv", wanted, got, strict=True):
      atol = 2e-5 * np.abs(one).max()
      np.testing.assert_allclose(other, one, atol=atol, err_msg=name)


def test_no_mask_is_causal_and_right_padding_changes_nothing():
  # The padding of a prompt comes after it: its keys are no real query's past, so that
  # a mask of them would change nothing, not a bit.
  q, k, v, _ = case(1, 12, 0, 2)
  real = jnp.arange(12) < jnp.array([[12], [7]])
  causal = jnp.tril(jnp.ones((12, 12), bool)) & real[:, None, None]
  got = attention.attend(q, k, v, None, None)
  wanted = attention.multiplied(q, k, v, causal, None)
  seen = np.asarray(real)[:, None]
  np.testing.assert_array_equal(np.asarray(got)[seen], np.asarray(wanted)[seen])
  assert (np.asarray(got)[~seen] != np.asarray(wanted)[~seen]).any()


@pytest.mark.parametrize("keys", ["bgskh", "bskh"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_of_scores_is_autodiffs(keys, dtype):
  # A batch axis or the sum over the G rows that share keys left out would differ.
  sizes = dict(zip("bkgtrsh", (2, 2, 3, 5, 2, 7, 4)))
  rng = np.random.default_rng(0)
  draw = lambda axes: jnp.asarray(  # noqa: E731
    rng.normal(size=[sizes[a] for a in axes]), dtype
  )
  q, k, weights = draw("bkgtrh"), draw(keys), draw("bkgtrs").astype(jnp.float32)

  def loss(scores, q, k):
    return (scores(q, k) * weights).sum()

  def plain(q, k):
    return jnp.einsum(
      f"bkgtrh,{keys}->bkgtrs", q, k, preferred_element_type=jnp.float32
    )

  wanted = jax.value_and_grad(loss, (1, 2))(plain, q, k)
  found = jax.value_and_grad(loss, (1, 2))(
    lambda q, k: attention._scores(q, k, keys), q, k
  )
  tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
  for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
    assert x.dtype == y.dtype
    x, y = (np.asarray(z, np.float32) for z in (x, y))
    np.testing.assert_allclose(y, x, atol=tolerance * np.abs(x).max())
