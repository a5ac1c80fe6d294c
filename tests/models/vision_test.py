"""The vision plan against brute force, and its layouts against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models
from fmd_jax.models import permute, vision
from fmd_jax.models.vision_plan import Segments
from tests.models import tiny

GRIDS = np.array([[1, 4, 6], [1, 8, 8], [1, 10, 2], [2, 4, 4]])


def members(segments: Segments) -> list[tuple[int, ...]]:
  """Each patch's fellows, by the layout that attention uses."""
  if segments.tokens is None:
    tokens = np.arange(segments.mask.size).reshape(segments.mask.shape)
  else:
    tokens = segments.tokens
    np.testing.assert_array_equal(
      tokens.ravel()[segments.slots], np.arange(len(segments.slots))
    )
  fellows = {}
  for row, mask in zip(tokens, segments.mask):
    group = tuple(sorted(row[mask].tolist()))
    fellows |= dict.fromkeys(group, group)
  return [fellows[i] for i in range(len(fellows))]


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize("window", [56, 112])
def test_plan_groups_patches_as_defined(window, bucketed):
  # Wrong: windows of patches, not of merged tokens; windows over two images; "full"
  # layers that see all frames of a clip.
  config = tiny.config().vision
  config = type(config)(**{**vars(config), "window_size": window})
  plan = models.vision_plan(GRIDS, config, bucketed=bucketed)
  real = GRIDS.prod(-1).sum()
  where = []  # image, frame, row, column of each patch in the processor's order
  for image, (times, height, width) in enumerate(GRIDS):
    for frame in range(times):
      for top in range(0, height, 2):
        for left in range(0, width, 2):
          for inner in range(4):
            row, column = top + inner // 2, left + inner % 2
            where.append((image, frame, row, column))
  order = np.arange(len(plan.positions[0]) // 4) if plan.order is None else plan.order
  order = (order[:, None] * 4 + np.arange(4)).ravel()
  assert sorted(order) == list(range(len(order)))
  assert (order[:real] < real).all()
  where = [where[i] for i in order[:real]]
  np.testing.assert_array_equal(plan.positions[:, :real], np.array(where).T[2:])
  side = window // 14
  windows = [(i, f, r // side, c // side) for i, f, r, c in where]
  frames = [(i, f) for i, f, _, _ in where]
  for keys, segments in ((windows, plan.windows), (frames, plan.frames)):
    got = members(segments)[:real]
    assert got == [tuple(j for j in range(real) if keys[j] == k) for k in keys]


@pytest.mark.parametrize("bucketed", [False, True])
def test_plan_without_windows(bucketed):
  # Wrong: an index that keeps the order all the same; frames joined; an image's last
  # row not on the table's last row; rows and columns swapped, in the table or in its
  # entries; a clip's second frame without positions.
  config = tiny.config(**tiny.QWEN3).vision
  plan = models.vision_plan(GRIDS, config, bucketed=bucketed)
  real = GRIDS.prod(-1).sum()
  assert plan.order is None and plan.frames is None
  frame = np.repeat(np.arange(5), [24, 64, 20, 16, 16])
  wanted = [tuple(np.flatnonzero(frame == k)) for k in frame]
  assert members(plan.windows)[:real] == wanted
  # A table that is linear in row and column is read exactly between its entries.
  size = np.repeat(GRIDS[:, 1:], GRIDS.prod(-1), axis=0).T
  row, column = plan.positions[:, :real] * 5 / (size - 1)
  table = np.add.outer(7.0 * np.arange(6), np.arange(6)).ravel()
  got = (table[plan.taps] * plan.tap_weights).sum(0)[:real]
  np.testing.assert_allclose(got, 7 * row + column, rtol=1e-6)
  assert plan.taps.shape[1] == plan.positions.shape[1]
  assert models.vision_plan(GRIDS, tiny.config().vision).taps is None


def test_equal_images_need_no_index():
  # The fast path of every training batch: a reshape and no gather.
  config = tiny.config().vision
  whole = models.vision_plan(np.array([[1, 4, 4]] * 5), config)
  assert whole.order is None and whole.frames is None
  assert whole.windows.tokens is None and whole.windows.mask.shape == (5, 16)
  four = models.vision_plan(np.array([[1, 8, 8]] * 5), config, bucketed=True)
  assert four.frames.tokens is None and four.frames.mask.shape == (5, 64)
  assert four.windows.tokens is None and four.windows.mask.shape == (20, 16)


def test_buckets_have_few_shapes():
  # Otherwise every batch of photographs is another program to compile.
  config = tiny.config().vision
  rng = np.random.default_rng(0)
  shapes = set()
  for _ in range(200):
    grids = np.stack([np.ones(12), *rng.integers(3, 7, (2, 12)) * 2], 1).astype(int)
    plan = models.vision_plan(grids, config, bucketed=True)
    shapes.add(str(jax.tree.map(np.shape, plan)))
  assert len(shapes) < 12


def encode_and_gradient(model, grids, pixels, weights, each=False, **settings):
  """Visual tokens, and the gradient of a weighted sum of their squares."""
  graphdef, params = nnx.split(model)
  bucketed = settings.pop("bucketed", False)

  @jax.jit
  def run(params, pixels, plan, weights):
    def total(params):
      out = nnx.merge(graphdef, params).encode_images(pixels, plan, **settings)
      out = out[: len(weights)]
      return jnp.sum(out**2 * weights), out

    (_, out), gradient = jax.value_and_grad(total, has_aux=True)(params)
    return out, gradient

  config = model.config.vision
  if not each:
    plan = models.vision_plan(grids, config, bucketed=bucketed)
    return run(params, models.pad_patches(pixels, plan), plan, weights)
  outs, gradients, at = [], [], 0
  for grid in grids:
    n = grid.prod()
    plan = models.vision_plan(grid[None], config)
    tokens = slice(at // 4, (at + n) // 4)
    out, gradient = run(params, pixels[at : at + n], plan, weights[tokens])
    outs.append(out)
    gradients.append(gradient)
    at += n
  return jnp.concatenate(outs), jax.tree.map(lambda *g: sum(g), *gradients)


@pytest.fixture(scope="module", params=tiny.FAMILIES, ids=tiny.FAMILY_NAMES)
def one_by_one(request):
  """Each image alone, where windows differ in length but nothing else is mixed."""
  model = tiny.model(seed=0, **request.param)
  grids = GRIDS[:3]
  rng = np.random.default_rng(0)
  pixels = rng.normal(size=(grids.prod(-1).sum(), model.config.vision.patch_width))
  pixels = pixels.astype(np.float32)
  weights = rng.normal(size=(len(pixels) // 4, 1)).astype(np.float32)
  alone = encode_and_gradient(model, grids, pixels, weights, each=True)
  return model, grids, pixels, weights, alone


@pytest.mark.parametrize("settings", [{}, {"bucketed": True, "remat": False}], ids=str)
def test_batches_equal_images_alone(one_by_one, settings):
  # Wrong: an image that sees its neighbour or the padding; padding that adds to the
  # gradient (the custom gathers' backward passes are exercised here).
  model, grids, pixels, weights, (wanted, wanted_gradient) = one_by_one
  got, gradient = encode_and_gradient(model, grids, pixels, weights, **settings)
  np.testing.assert_allclose(got, wanted, atol=2e-5)
  pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient))
  for ours, theirs in pairs:
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * scale)


def test_gathers_have_the_gradients_of_gathers():
  # Each custom backward pass against the one JAX derives, where they must agree.
  rng = np.random.default_rng(0)
  lengths = [3, 1, 2]
  mask = np.arange(3) < np.array(lengths)[:, None]
  tokens = np.where(mask, np.cumsum(mask).reshape(mask.shape) - 1, 0)
  slots = np.flatnonzero(mask)
  x, y = rng.normal(size=(6, 2)), rng.normal(size=(3, 3, 2))
  places = np.array([0, 1, 1, 0, 1, 0], bool)
  features = rng.normal(size=(4, 2))  # one more than there are places
  order = rng.permutation(6)

  def plain_fill(x, features):
    return jnp.array(x).at[np.flatnonzero(places)].set(features[:3])

  cases = [
    (lambda x: permute.pack(x, tokens, slots, mask), lambda x: x[tokens], (x,), mask),
    (
      lambda y: permute.unpack(y, tokens, slots, mask),
      lambda y: y.reshape(9, 2)[slots],
      (y,),
      None,
    ),
    (
      lambda x: permute.permute(x, order, np.argsort(order)),
      lambda x: x[order],
      (x,),
      None,
    ),
    (lambda x, f: permute.fill(x, f, places), plain_fill, (x, features), None),
  ]
  for ours, plain, arguments, seen in cases:
    arguments = [jnp.asarray(a, jnp.float32) for a in arguments]
    np.testing.assert_array_equal(ours(*arguments), plain(*arguments))
    shape = plain(*arguments).shape
    weight = rng.normal(size=shape).astype(np.float32)
    weight = weight if seen is None else weight * seen[..., None]

    def gradient(f, arguments=arguments, weight=weight):
      loss = lambda given: jnp.sum(jnp.sin(f(*given)) * weight)  # noqa: E731
      return jax.grad(loss)(arguments)

    for got, wanted in zip(gradient(ours), gradient(plain)):
      np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_attention_in_blocks_equals_that_at_once():
  # Wrong: heads or windows in another order, the mask of another window, a last block
  # whose padding is kept; a mask left out of what the backward pass computes again.
  rng = np.random.default_rng(0)
  windows, heads, length, width = 2, 3, 10, 4
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  q, k = make(windows, heads, length, width), make(windows, heads, width, length)
  v, weight = make(*q.shape), make(*q.shape)
  real = jnp.arange(length) < jnp.array([[length], [6]])

  def both(mask, block):
    def total(q, k, v):
      out = vision._mixed(q, k, v, mask, block)
      return (out * weight).sum(), out

    f = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
    (_, out), gradients = jax.jit(f)(q, k, v)
    return out, *gradients

  for mask in (None, real[:, None, None]):
    for one, other in zip(both(mask, length), both(mask, 4), strict=True):
      np.testing.assert_allclose(other, one, atol=1e-5)


def test_bad_grids_are_refused():
  config = tiny.config().vision
  with pytest.raises(ValueError, match=r"\(1, 3, 4\) is no multiple of 2"):
    models.vision_plan(np.array([[1, 3, 4]]), config)
  with pytest.raises(ValueError, match="at least one image"):
    models.vision_plan(np.zeros((0, 3), int), config)
