"""Rows of the language model: tap, shared prompt, positions, logical axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models
from fmd_jax.models import axes, decode
from tests.models import tiny


def rows(seed, *shape):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(*shape, 32)).astype(np.float32)
  positions = np.broadcast_to(np.arange(shape[-1]), (3, *shape))
  return x, positions, np.tri(shape[-1], dtype=bool)[None, None]


def test_tap_is_the_state_after_so_many_layers():
  # Off by one, the tap is the embeddings or the last layer. A model of that many
  # layers, without final norm, says what it must be.
  model = tiny.model(seed=0)
  x, positions, mask = rows(0, 2, 1, 5)
  hidden, kv, tapped = model.language(x, positions, mask, tap=1)
  plain, plain_kv = model.language(x, positions, mask)
  np.testing.assert_allclose(hidden, plain, atol=1e-6)
  for got, wanted in zip(kv, plain_kv):
    assert got.shape == (2, 2, 1, 5, 1, 16)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
  graphdef, params = nnx.split(model.language_model.layers)
  second = nnx.merge(graphdef, jax.tree.map(lambda p: p[1], params))
  angles = model_angles(model, positions)
  after, _ = second(tapped, *angles, mask, None)
  np.testing.assert_allclose(model.language_model.norm(after), plain, atol=1e-6)


def model_angles(model, positions):
  from fmd_jax.models.text import mrope_angles

  angles = mrope_angles(jnp.asarray(positions), model.config.text)
  return jnp.cos(angles), jnp.sin(angles)


def test_deepstack_is_added_after_the_first_layers():
  # Added before its layer, after every layer, or to keys alone; lost with a tap.
  model = tiny.model(seed=0, **tiny.QWEN3)
  x, positions, mask = rows(0, 2, 1, 5)
  extra = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
  wide = np.concatenate([x, extra], -1)
  hidden, kv, tapped = model.language(wide, positions, mask, tap=1)
  _, plain_kv, plain = model.language(x, positions, mask, tap=1)
  np.testing.assert_allclose(tapped, plain + extra, atol=1e-5)
  untapped, _ = model.language(wide, positions, mask)
  np.testing.assert_allclose(hidden, untapped, atol=1e-5)
  first, second = (np.abs(a - b).max() for a, b in zip(kv[0], plain_kv[0]))
  assert first == 0 and second > 0.1
  graphdef, params = nnx.split(model.language_model.layers)
  last = nnx.merge(graphdef, jax.tree.map(lambda p: p[1], params))
  after, _ = last(tapped, *model_angles(model, positions), mask, None)
  np.testing.assert_allclose(model.language_model.norm(after), hidden, atol=1e-5)


def test_remat_changes_nothing():
  model = tiny.model(seed=0)
  x, positions, mask = rows(1, 2, 1, 4)
  graphdef, params = nnx.split(model)

  def total(params, remat):
    merged = nnx.merge(graphdef, params)
    return (merged.language(x, positions, mask, remat=remat)[0] ** 2).sum()

  plain, again = (jax.grad(total)(params, remat) for remat in (False, True))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again)):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_rows_of_a_group_do_not_see_each_other():
  # One mask over [G * T] keys, or a prefix shared over images too, would leak.
  model = tiny.model(seed=0)
  x, positions, mask = rows(2, 2, 3, 4)
  prompt, prompt_positions, prompt_mask = rows(3, 2, 1, 6)
  _, prefix = model.language(prompt, prompt_positions, prompt_mask)
  prefix = jax.tree.map(lambda kv: kv[:, :, 0], prefix)
  seen = np.arange(6) < np.array([[6], [4]])

  run = jax.jit(lambda x, prefix: model.language(x, positions, mask, prefix, seen)[0])
  base = np.asarray(run(x, prefix))
  changed = x.copy()
  changed[1, 2] += 1.0
  moved = np.abs(np.asarray(run(changed, prefix)) - base).max((-1, -2)) > 0
  assert moved.tolist() == [[False] * 3, [False, False, True]]
  # The second image's prompt ends at 4: what stands behind is never seen.
  for at, wanted in ((5, [True, False]), (3, [True, True])):
    other = jax.tree.map(lambda kv, at=at: kv.at[:, :, at].add(1.0), prefix)
    moved = np.abs(np.asarray(run(x, other)) - base).max((-1, -2, -3)) > 0
    assert moved.tolist() == wanted


@pytest.mark.parametrize("stacks", [1, 2])
def test_step_reads_nothing_ahead_and_writes_one_place(stacks):
  # Seeing behind `index`, or writing one place late, shows here; so do layers that read
  # or write another's keys, with one scan for all layers and with one each.
  model = tiny.model(seed=0)
  x, positions, mask = rows(4, 2, 3, 4)
  prompt, prompt_positions, prompt_mask = rows(5, 2, 1, 6)
  _, prefix = model.language(prompt, prompt_positions, prompt_mask)
  prefix = jax.tree.map(lambda kv: kv[:, :, 0], prefix)
  seen = np.arange(6) < np.array([[6], [4]])
  wanted, own = model.language(x, positions, mask, prefix, seen)
  prefix = decode.prefix_stacks(prefix, stacks)
  cache = jax.tree.map(lambda kv: kv + 99, decode.empty_cache(prefix, 3, 4))
  step = jax.jit(lambda *given: model.decoder(prefix, seen)(*given))
  for t in range(4):
    hidden, cache = step(x[:, :, t], positions[..., t], cache, t)
    np.testing.assert_allclose(hidden, wanted[:, :, t], atol=1e-5)
    # [L, B, KV, G, h, S] and [L, B, KV, G, S, h] -> [L, B, G, S, KV, h]
    keys, values = (
      np.stack(kv).reshape(2, 2, 1, 3, *kv[0].shape[-2:])
      for kv in zip(*cache, strict=True)
    )
    cached = keys.transpose(0, 1, 3, 5, 2, 4), values.transpose(0, 1, 3, 4, 2, 5)
    for got, kv in zip(cached, own, strict=True):
      np.testing.assert_allclose(
        got[..., : t + 1, :, :], kv[..., : t + 1, :, :], atol=1e-5
      )
      assert (got[..., t + 1 :, :, :] == 99.0).all()


def test_positions_refuse_what_does_not_match():
  # Silently cut or left over, every later image would get another's grid.
  config = tiny.config()
  given = tiny.prompts(config, [(4, 4), (4, 6)], [10, 12])
  ids, lengths, grid = given.input_ids, given.lengths, given.image_grid_thw
  with pytest.raises(ValueError, match="row 1 has more images than the 1 grids"):
    models.mrope_positions(ids, grid[:1], lengths, config)
  with pytest.raises(ValueError, match="2 grids are given, the rows hold 1"):
    models.mrope_positions(ids[:1], grid, lengths[:1], config)
  with pytest.raises(ValueError, match=r"image 0, grid \[1, 4, 6\], needs 6 image"):
    models.mrope_positions(ids, grid[::-1], lengths, config)
  model = tiny.model(seed=0)
  with pytest.raises(ValueError, match="12 patches given, the grids have 40"):
    model(ids, given.pixel_values[:12], grid)


def test_text_alone_counts_on():
  config = tiny.config()
  ids = np.array([[5, 6, 7, 8]])
  positions, following = models.mrope_positions(ids, None, np.array([3]), config)
  assert positions[:, 0].tolist() == [[0, 1, 2, 0]] * 3
  assert following.tolist() == [3]
  assert tiny.model(seed=0)(ids).shape == (1, 4, tiny.VOCABULARY)


def test_images_fill_their_places_in_order():
  # Rows filled each from the first feature, or padding that takes one.
  model = tiny.model(seed=0)
  image = model.config.image_token_id
  ids = np.array([[5, image, image, 6], [image, 7, 8, 9]])
  features = np.arange(5 * 32, dtype=np.float32).reshape(5, 32)
  got = np.asarray(model.embed(ids, features))
  table = np.asarray(model.language_model.embed_tokens.embedding[...])
  np.testing.assert_array_equal(got[0, 1:3], features[:2])
  np.testing.assert_array_equal(got[1, 0], features[2])
  np.testing.assert_array_equal(got[0, [0, 3]], table[[5, 6]])
  np.testing.assert_array_equal(model.embed(ids, None), table[ids])
  # What deepstack adds stands behind: zero at words, where it must change nothing.
  deep = tiny.model(seed=0, **tiny.QWEN3)
  wide = np.arange(5 * 64, dtype=np.float32).reshape(5, 64)
  got = np.asarray(deep.embed(ids, wide))
  np.testing.assert_array_equal(got[0, 1:3], wide[:2])
  assert (got[ids != image][:, 32:] == 0).all()
  with pytest.raises(ValueError, match="features are 32 wide, the model's are 64"):
    deep.embed(ids, features)


@pytest.mark.parametrize("family", tiny.FAMILIES, ids=tiny.FAMILY_NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_its_axes(tied, family):
  # A new parameter without axes would be copied to every chip of a pod.
  model = tiny.model(seed=0, tie_word_embeddings=tied, **family)
  sizes = {}
  for path, variable in nnx.to_flat_state(nnx.state(model)):
    names = axes.logical_axes(path)
    assert len(names) == variable.ndim, path
    tower = path[0]
    for name, size in zip(names, variable.shape):
      assert sizes.setdefault((tower, name), size) == size, (path, name)
  with pytest.raises(KeyError, match="adapter"):
    axes.logical_axes(("adapter", "kernel"))


def test_seeds_differ_and_repeat():
  first, again, other = (models.init(tiny.config(), seed) for seed in (0, 0, 1))
  kernel = lambda m: np.asarray(m.language_model.layers.mlp.up_proj.kernel[...])  # noqa: E731
  np.testing.assert_array_equal(kernel(first), kernel(again))
  assert np.abs(kernel(first) - kernel(other)).max() > 0.1
  # All layers alike would be the same random key for each.
  assert np.abs(kernel(first)[0] - kernel(first)[1]).max() > 0.1
