"""The trace of a small program whose operations are known."""

import jax
import jax.numpy as jnp
import pytest

from tests.bench import limit, op_times

STEPS, WIDTH = 3, 128


def _layer(x, w):
  return jnp.tanh(x @ w), None


def _loss(ws, x):
  layer = jax.checkpoint(_layer, prevent_cse=False)
  return jax.lax.scan(layer, x, ws)[0].sum()


def test_products_are_found_and_named():
  # A loop counted beside its body would double it; parent frames read one off, or a
  # fusion's own name in place of its product's, would lose the layer.
  ws, x = jnp.ones((STEPS, WIDTH, WIDTH)), jnp.ones((512, WIDTH))
  compiled = jax.jit(jax.grad(_loss)).lower(ws, x).compile()
  ops = op_times.trace(compiled, lambda: compiled(ws, x))
  products = [op for op in ops if op.product]
  # x @ w forward and again, and the gradients of both.
  assert sum(op.calls for op in products) == 4 * STEPS
  assert all("_layer" in op.functions for op in products)
  assert {limit.stage(op) for op in products} == {"forward", "recomputed", "backward"}
  assert all(op.seconds > 0 for op in products)
  assert not any(" while(" in op.text for op in ops)
  by_kind = op_times.total(ops, limit.kind)
  assert sum(by_kind.values()) == pytest.approx(sum(op.seconds for op in ops))
