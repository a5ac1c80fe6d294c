"""Adapters against the model they are folded into, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models
from fmd_jax.models import axes, layers, lora
from tests.models import peer, tiny

RANK, ALPHA = 3, 6.0
TARGETS = ("language_model.layers.*", "visual.*merger*")


def adapted(changes, targets=TARGETS, seed=4):
  """A random model whose adapters add something: B is not 0 any more."""
  graphdef, params = nnx.split(
    models.add_lora(tiny.model(seed=0, **changes), RANK, ALPHA, targets)
  )
  rng = np.random.default_rng(seed)

  def move(path, leaf):
    if path[-1] != lora.B:
      return leaf
    return leaf.replace(jnp.array(0.1 * rng.normal(size=leaf.shape), jnp.float32))

  return nnx.merge(graphdef, nnx.map_state(move, params))


@functools.cache
def prompts(family):
  return tiny.prompts(tiny.config(**tiny.FAMILIES[family]), [(4, 6), (4, 4)], [16, 12])


def objective(model, family):
  p = prompts(family)
  features = model.encode_images(
    p.pixel_values, models.vision_plan(p.image_grid_thw, model.config.vision)
  )
  size = p.input_ids.shape[1]
  positions, _ = models.mrope_positions(
    p.input_ids, p.image_grid_thw, p.lengths, model.config
  )
  hidden, _ = model.language(
    model.embed(p.input_ids, features)[:, None],
    positions[:, :, None],
    jnp.tril(jnp.ones((1, 1, size, size), bool)),
  )
  return jnp.sum(hidden**2 * np.linspace(0.2, 1, hidden.shape[-1]))


def value_and_gradient(model, family):
  graphdef, params = nnx.split(model)
  return jax.jit(
    jax.value_and_grad(lambda p: objective(nnx.merge(graphdef, p), family))
  )(params)


def test_equals_the_folded_model_in_value_and_gradient():
  # Of Qwen3-VL, which has stacks of two kinds. dA = s dW B', dB = s A' dW: without the
  # scale, with A and B of another layer of the stack, or where a gradient of the rest
  # is lost, these differ.
  family = 1
  model = adapted(tiny.FAMILIES[family])
  folded = models.merge_lora(model)
  base = tiny.model(seed=0, **tiny.FAMILIES[family])
  assert nnx.graphdef(folded) == nnx.graphdef(base)
  value, gradient = value_and_gradient(model, family)
  wanted, plain = value_and_gradient(folded, family)
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  flat = dict(nnx.to_flat_state(gradient))
  params = dict(nnx.to_flat_state(nnx.state(model)))
  seen = 0
  for path, leaf in nnx.to_flat_state(plain):
    got, full = [(flat[path][...], leaf[...])], leaf[...]
    if (a := (*path[:-1], lora.A)) in flat and path[-1] == "kernel":
      b = (*path[:-1], lora.B)
      turned = [np.swapaxes(params[p][...], -1, -2) for p in (a, b)]
      scale = ALPHA / RANK
      got = [
        (flat[a][...], scale * full @ turned[1]),
        (flat[b][...], scale * turned[0] @ full),
      ]
      seen += 1
    for one, other in got:
      limit = 1e-4 * max(np.abs(other).max(), 1e-3)
      assert np.abs(one - other).max() <= limit, path
  assert seen == 11


def test_fresh_adapters_add_nothing():
  # B drawn at random too: the first policy would not be the reference.
  base = tiny.model(seed=0)
  model = models.add_lora(base, RANK, ALPHA, TARGETS, seed=1)
  ids = np.arange(12)[None]
  np.testing.assert_array_equal(model(ids), base(ids))
  assert nnx.graphdef(base) == nnx.graphdef(tiny.model(seed=0))
  flat = dict(nnx.to_flat_state(nnx.state(model)))
  a = [leaf[...] for path, leaf in flat.items() if path[-1] == lora.A]
  assert all(0.5 < np.std(x) * np.sqrt(x.shape[-2]) < 1.5 for x in a)
  again = models.add_lora(base, RANK, ALPHA, TARGETS, seed=1)
  jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(again))
  assert models.add_lora(base, 0, ALPHA, TARGETS) is base
  for path, leaf in flat.items():  # a mesh splits adapters as it splits their kernels
    assert len(axes.logical_axes(path)) == leaf.ndim


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("parts", [4, 5])
def test_a_projection_by_parts_is_the_projection(parts, bias):
  # Wrong: without its bias or adapters; inputs paired with another part's weights.
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(12, 5)).astype(np.float32)
  make = layers.linear(12, 5, bias=bias, dtype=jnp.float32, rngs=nnx.Rngs(0))
  make.kernel[...] = kernel
  if bias:
    make.bias[...] = np.arange(5.0)
  make.lora_a = nnx.Param(jnp.asarray(rng.normal(size=(12, 2)), jnp.float32))
  make.lora_b = nnx.Param(jnp.asarray(rng.normal(size=(2, 5)), jnp.float32))
  make.lora_scale = 0.5
  x = rng.normal(size=(2, 7, 12)).astype(np.float32)
  wanted = x @ kernel + (np.arange(5.0) if bias else 0)
  wanted += 0.5 * (x @ make.lora_a[...]) @ make.lora_b[...]
  np.testing.assert_allclose(make(x, parts), wanted, atol=1e-5)


def test_targets():
  # "*proj" of a string would take "patch_embed" for no reason and miss nothing; a typo
  # that matched nothing would train nothing, unnoticed.
  model = models.add_lora(tiny.model(seed=0), 2, 4.0, ("*.q_proj", "visual.merger.fc2"))
  paths = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
  assert {path[-2] for path in paths if lora.is_adapter(path)} == {"q_proj", "fc2"}
  for wrong in ("*.query", "lm_head"):
    with pytest.raises(ValueError, match="no projection is called.*language_model"):
      models.add_lora(tiny.model(seed=0), 2, 4.0, (wrong,))


def test_folded_model_in_transformers(tmp_path, monkeypatch):
  # A kernel folded after its transpose, or adapters left out of the export.
  model = adapted({})
  p = prompts(0)
  seen = np.arange(p.input_ids.shape[1]) < p.lengths[:, None]
  inputs = (p.input_ids, p.pixel_values, p.image_grid_thw, seen)
  models.save(models.merge_lora(model), tmp_path)
  wanted = np.asarray(model(*inputs))[seen]
  scale = np.abs(wanted).max()
  got = np.asarray(models.load(tmp_path)(*inputs))[seen]
  assert np.abs(got - wanted).max() / scale < 1e-5
  import transformers

  # It needs to be told where images are, by an id that is not this model's.
  monkeypatch.setattr(peer, "IMAGE", model.config.image_token_id)
  theirs = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
  ids = p.input_ids.astype(np.int64)
  rows = peer.Rows(ids, seen.astype(int), p.pixel_values, p.image_grid_thw)
  assert np.abs(peer.logits(theirs.eval(), rows)[seen] - wanted).max() / scale < 1e-4
