"""The GRPO loss against a NumPy loop, finite differences and hand-made numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmd_jax import rl

CLIP, BETA = 0.2, 0.3
# TypeError where annotations are checked at run time.
REFUSED = (AssertionError, TypeError)


def loop_loss(new, old, ref, advantages, lengths, mask, clip, beta, token_weights=None):
  """Eq. 1 token by token; images, then responses, then tokens."""
  images = []
  kls, clips, deviation = [], [], 0.0
  for b in range(new.shape[0]):
    responses, group_kl, group_clip = [], [], []
    for g in range(new.shape[1]):
      if not mask[b, g] or lengths[b, g] == 0:
        continue
      total = kl_total = clip_total = 0.0
      for t in range(lengths[b, g]):
        a = advantages[b, g] if advantages.ndim == 2 else advantages[b, g, t]
        w = 1.0 if token_weights is None else token_weights[b, g, t]
        r = math.exp(new[b, g, t] - old[b, g, t])
        bounded = min(max(r, 1 - clip), 1 + clip)
        x = ref[b, g, t] - new[b, g, t]
        kl = math.exp(x) - x - 1
        total += w * (min(r * a, bounded * a) - beta * kl)
        kl_total += kl
        clip_total += bounded * a < r * a
        deviation = max(deviation, abs(r - 1))
      responses.append(total / lengths[b, g])
      group_kl.append(kl_total / lengths[b, g])
      group_clip.append(clip_total / lengths[b, g])
    if responses:
      images.append(np.mean(responses))
      kls.append(np.mean(group_kl))
      clips.append(np.mean(group_clip))
  if not images:
    return 0.0, {"kl": 0.0, "clip_frac": 0.0, "ratio_max_dev": 0.0}
  metrics = {"kl": np.mean(kls), "clip_frac": np.mean(clips)}
  return -np.mean(images), metrics | {"ratio_max_dev": deviation}


def batch(seed=0, images=3, group=4, tokens=5, per_token=False):
  generator = np.random.default_rng(seed)
  shape = (images, group, tokens)
  new = -generator.random(shape) * 3
  old = new + generator.normal(size=shape) * 0.3
  ref = new + generator.normal(size=shape) * 0.5
  advantages = generator.normal(size=shape if per_token else shape[:2])
  lengths = generator.integers(1, tokens + 1, size=shape[:2])
  mask = np.ones(shape[:2], bool)
  mask[0, 1] = False
  if images > 2:
    mask[2] = False
  return new, old, ref, advantages, lengths, mask


def grpo_loss(*arrays, clip, beta, weights=None, token_weights=None):
  """The paper's loss: one clip for both sides, the k3 KL, this batch's own weights."""
  *_, lengths, mask = arrays
  if weights is None:
    weights = rl.response_weights(mask, lengths)
  return rl.policy_loss(
    rl.LOSSES["grpo"],
    *arrays,
    weights=weights,
    clip=clip,
    clip_high=clip,
    beta=beta,
    token_weights=token_weights,
  )


def test_golden_ratio_and_kl():
  """One token, new .6 against old .5 and ref .4, A = 1, clip .3: r = 1.2.

  loss = -1.2 + .3 (.4/.6 - ln(.4/.6) - 1) = -1.1783605. Upside down (old/new)
  the ratio is .8333 and the loss -.8117; k1 instead of k3 gives -1.0784; k3 with
  new and ref swapped -1.1716; KL added to the objective -1.2216.
  """
  new, old, ref = (jnp.log(jnp.full((1, 1, 1), p)) for p in (0.6, 0.5, 0.4))
  one = jnp.ones((1, 1))
  length, mask = jnp.ones((1, 1), int), jnp.ones((1, 1), bool)
  loss, metrics = grpo_loss(new, old, ref, one, length, mask, clip=0.3, beta=0.3)
  np.testing.assert_allclose(loss, -1.1783605, rtol=1e-6)
  np.testing.assert_allclose(metrics["kl"], 0.0721318, rtol=1e-5)
  np.testing.assert_allclose(metrics["ratio_max_dev"], 0.2, rtol=1e-5)


@pytest.mark.parametrize(
  ("ratio", "advantage", "objective", "moves"),
  [
    (1.5, 1.0, 1.2, False),  # the gain is clipped; unclipped: 1.5
    (0.5, -1.0, -0.8, False),  # likewise downwards; unclipped: -0.5
    (1.5, -1.0, -1.5, True),  # min, not max: max would give -1.2 and no gradient
    (0.5, 1.0, 0.5, True),  # likewise; max would give 0.8
  ],
)
def test_golden_clipping(ratio, advantage, objective, moves):
  """The clip bounds what can be gained, never what can be lost."""
  old = jnp.zeros((1, 1, 1))
  new = jnp.log(jnp.full((1, 1, 1), ratio))
  advantages = jnp.full((1, 1), advantage)
  length, mask = jnp.ones((1, 1), int), jnp.ones((1, 1), bool)

  def loss(new):
    return grpo_loss(new, old, new, advantages, length, mask, clip=0.2, beta=0.0)

  (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(new)
  np.testing.assert_allclose(-value, objective, rtol=1e-6)
  assert bool(gradient[0, 0, 0] != 0) is moves
  assert float(metrics["clip_frac"]) == float(not moves)


def test_golden_means():
  """Ratios 1, A = 1 | 3 on 1 | 3 tokens, a masked third, an all-masked image.

  -(1 + 3)/2 = -2. Averaging over tokens gives -2.5; dividing by T = 3 gives
  -1.6667; the masked response in the denominator -1.3333; the empty image in the
  mean over images -1.
  """
  zeros = jnp.zeros((2, 3, 3))
  advantages = jnp.array([[1.0, 3.0, 100.0], [7.0, 7.0, 7.0]])
  lengths = jnp.array([[1, 3, 3], [3, 3, 3]])
  mask = jnp.array([[True, True, False], [False, False, False]])
  loss, _ = grpo_loss(
    zeros, zeros, zeros, advantages, lengths, mask, clip=0.2, beta=1.0
  )
  np.testing.assert_allclose(loss, -2.0, rtol=1e-6)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_in_double(seed, per_token):
  """Loss equal to the loop; gradient equal to the loop's central differences.

  Any sign, mask, denominator or stop-gradient error shows; setting old to the
  new log-probs without gradient would leave only the KL's.
  """
  arrays = batch(seed, per_token=per_token)
  token_weights = np.random.default_rng(9).random(arrays[0].shape) * 2
  with jax.enable_x64(True):

    def loss(new):
      return grpo_loss(
        new,
        *map(jnp.array, arrays[1:]),
        clip=CLIP,
        beta=BETA,
        token_weights=jnp.array(token_weights),
      )

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
      jnp.array(arrays[0])
    )
    assert value.dtype == jnp.float64
    value, gradient = float(value), np.asarray(gradient)
    metrics = {name: float(m) for name, m in metrics.items()}
  want, want_metrics = loop_loss(*arrays, CLIP, BETA, token_weights)
  np.testing.assert_allclose(value, want, rtol=1e-12)
  assert metrics.keys() == want_metrics.keys()
  for name, metric in metrics.items():
    np.testing.assert_allclose(metric, want_metrics[name], rtol=1e-12, err_msg=name)
  step = 1e-6
  for index in np.ndindex(arrays[0].shape):
    sides = []
    for sign in (1, -1):
      moved = arrays[0].copy()
      moved[index] += sign * step
      sides.append(loop_loss(moved, *arrays[1:], CLIP, BETA, token_weights)[0])
    numeric = (sides[0] - sides[1]) / (2 * step)
    np.testing.assert_allclose(gradient[index], numeric, atol=1e-8, err_msg=str(index))


def test_single_precision():
  """The fp32 path that training takes, against the same loop."""
  arrays = batch(4)
  got, _ = grpo_loss(*map(jnp.array, arrays), clip=CLIP, beta=BETA)
  np.testing.assert_allclose(got, loop_loss(*arrays, CLIP, BETA)[0], rtol=1e-5)


def test_padding_cannot_poison():
  """-inf and NaN after the end, and anything in a masked response: no trace.

  Masking after exp gives the right loss and a NaN gradient.
  """
  new, old, ref, advantages, lengths, mask = batch(5)
  padded = np.arange(new.shape[-1]) >= lengths[..., None]
  padded |= ~mask[..., None]

  def run(filler):
    dirty = [np.where(padded, filler, x) for x in (new, old, ref)]
    rewards = np.where(mask, advantages, np.nan if filler is not None else 0.0)

    def loss(new):
      rest = map(jnp.array, (*dirty[1:], rewards, lengths, mask))
      return grpo_loss(new, *rest, clip=CLIP, beta=BETA)[0]

    return jax.value_and_grad(loss)(jnp.array(dirty[0]))

  clean_loss, clean_gradient = run(0.0)
  for filler in (-np.inf, np.nan, 1e4):
    got_loss, got_gradient = run(filler)
    np.testing.assert_array_equal(got_loss, clean_loss)
    np.testing.assert_array_equal(got_gradient, clean_gradient)
  assert np.isfinite(clean_loss)
  assert not np.asarray(clean_gradient)[padded].any()


def test_all_masked_is_zero():
  """Nothing scored: loss, gradient and metrics 0, where 0/0 would be NaN."""
  new, old, ref, advantages, lengths, mask = map(jnp.array, batch(6))

  def loss(new):
    return grpo_loss(
      new, old, ref, advantages, lengths, mask & False, clip=CLIP, beta=BETA
    )

  (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(new)
  assert float(value) == 0.0
  assert not np.asarray(gradient).any()
  assert all(float(m) == 0.0 for m in metrics.values())


def test_on_policy_gradient_is_reinforce():
  """At old = new the policy gradient is -A / (T G B), not 0.

  It would be 0 if both sides of the ratio carried the gradient.
  """
  new = jnp.log(jnp.full((1, 2, 2), 0.5))
  advantages = jnp.array([[1.0, -1.0]])
  lengths, mask = jnp.full((1, 2), 2), jnp.ones((1, 2), bool)

  def loss(new):
    return grpo_loss(new, new, new, advantages, lengths, mask, clip=0.2, beta=BETA)[0]

  gradient = jax.grad(loss)(new)
  np.testing.assert_allclose(gradient[0], [[-0.25] * 2, [0.25] * 2], rtol=1e-6)


def test_microbatches_add_up():
  """Halves of a batch, cut inside a group too, under the whole batch's weights.

  Each half's own means would be off: the halves hold 2 and 1 images that count.
  """
  new, old, ref, advantages, lengths, mask = map(jnp.array, batch(7, images=4))
  weights = rl.response_weights(mask, lengths)
  np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
  whole, metrics = grpo_loss(
    new, old, ref, advantages, lengths, mask, clip=CLIP, beta=BETA
  )
  total, kl, clipped, deviation = 0.0, 0.0, 0.0, 0.0
  for rows in (slice(0, 1), slice(1, 4)):
    for columns in (slice(0, 1), slice(1, 4)):
      part = [
        x[rows, columns] for x in (new, old, ref, advantages, lengths, mask, weights)
      ]
      loss, m = grpo_loss(*part[:-1], clip=CLIP, beta=BETA, weights=part[-1])
      total, kl, clipped = total + loss, kl + m["kl"], clipped + m["clip_frac"]
      deviation = max(deviation, float(m["ratio_max_dev"]))
  np.testing.assert_allclose(total, whole, rtol=1e-5)
  np.testing.assert_allclose(kl, metrics["kl"], rtol=1e-5)
  np.testing.assert_allclose(clipped, metrics["clip_frac"], rtol=1e-5)
  np.testing.assert_allclose(deviation, metrics["ratio_max_dev"], rtol=1e-6)


def test_stale_weights():
  """exp(old - sampler) cut at 2: .5 stays, 4 becomes 2. Upside down: 2 and .25."""
  old = jnp.log(jnp.array([[[0.1, 0.4]]]))
  sampler = jnp.log(jnp.array([[[0.2, 0.1]]]))
  np.testing.assert_allclose(rl.stale_weights(old, sampler), [[[0.5, 2.0]]], rtol=1e-5)
  assert not jax.grad(lambda x: rl.stale_weights(x, sampler).sum())(old).any()


def test_wrong_shapes_are_refused():
  """A [B, T] advantage that would broadcast silently over G = T is an error."""
  new, old, ref, advantages, lengths, mask = map(jnp.array, batch(8))
  with pytest.raises(REFUSED):
    grpo_loss(new, old[:, :1], ref, advantages, lengths, mask, clip=CLIP, beta=BETA)
  with pytest.raises(REFUSED):
    grpo_loss(new, old, ref, advantages[:, :1], lengths, mask, clip=CLIP, beta=BETA)
  with pytest.raises(REFUSED):
    rl.group_advantages(advantages, mask[:, :1])
