"""Every member of the loss family against a NumPy loop that knows its own formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmd_jax import rl

CLIP, HIGH, BETA, LONGEST = 0.2, 0.3, 0.3, 9
# CISPO's bound is one of the ratio itself.
HIGHS = dict.fromkeys(rl.LOSSES, HIGH) | {"cispo": 1.2}
NAMES = list(rl.LOSSES)


def batch(seed, per_token=False):
  """Image 0: a masked and an empty response; 2: one that counts; 3: equal rewards."""
  rng = np.random.default_rng(seed)
  shape = (5, 4, 6)
  new = -rng.random(shape) * 3
  old = new + rng.normal(size=shape) * 0.3
  ref = new + rng.normal(size=shape) * 0.5
  advantages = rng.normal(size=shape if per_token else shape[:2])
  lengths = rng.integers(1, shape[-1] + 1, size=shape[:2])
  mask = np.ones(shape[:2], bool)
  mask[0, 1] = False
  lengths[0, 2] = 0
  mask[2, 1:] = False
  advantages[3] = 0.0
  mask[4] = False
  return new, old, ref, advantages, lengths, mask


def k1(new, ref):
  return new - ref


def k2(new, ref):
  return (new - ref) ** 2 / 2


def k3(new, ref):
  return math.exp(ref - new) - (ref - new) - 1


def loop_loss(name, arrays, token_weights, kl=k3, weighing=None):
  """One response after the other; `weighing` holds CISPO's ratios while `new` moves."""
  new, old, ref, advantages, lengths, mask = arrays
  weighing = new if weighing is None else weighing
  high, per_image, total, count = HIGHS[name], [], 0.0, 0
  for b in range(new.shape[0]):
    sums = []
    group = [g for g in range(new.shape[1]) if mask[b, g] and lengths[b, g]]
    spread = advantages[b][group]
    if name == "dapo" and not any(np.ravel(spread)):
      continue
    for g in group:
      n, terms = lengths[b, g], []
      sequence = math.exp(np.mean(new[b, g, :n] - old[b, g, :n]))
      for t in range(n):
        a = advantages[b, g] if advantages.ndim == 2 else advantages[b, g, t]
        r = math.exp(new[b, g, t] - old[b, g, t])
        if name == "gspo":
          r = sequence
        if name == "cispo":
          w = min(math.exp(weighing[b, g, t] - old[b, g, t]), high)
          gain = w * a * new[b, g, t]
        else:
          gain = min(r * a, min(max(r, 1 - CLIP), 1 + high) * a)
        penalty = BETA * kl(new[b, g, t], ref[b, g, t])
        terms.append(token_weights[b, g, t] * (gain - penalty))
      sums.append((sum(terms), n))
    if sums:
      total, count = total + sum(s for s, _ in sums), count + sum(n for _, n in sums)
      divisor = (lambda n: LONGEST) if name == "dr_grpo" else (lambda n: n)
      per_image.append(np.mean([s / divisor(n) for s, n in sums]))
  if not per_image:
    return 0.0
  return -(total / count if name in ("dapo", "cispo") else np.mean(per_image))


def our_loss(name, arrays, token_weights=None, kl="k3", new=None):
  given = [*map(jnp.asarray, arrays)]
  if new is not None:
    given[0] = new
  loss = rl.LOSSES[name]
  advantages, lengths, mask = given[3:]
  return rl.policy_loss(
    loss,
    *given,
    weights=loss.weights(mask, lengths, advantages, LONGEST),
    clip=CLIP,
    clip_high=HIGHS[name],
    beta=BETA,
    kl=kl,
    token_weights=None if token_weights is None else jnp.asarray(token_weights),
  )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_token", [False, True], ids=["response", "token"])
def test_loss_equals_the_loop(name, per_token):
  # Another member's mean, ratio or bound, a masked or empty response in a denominator,
  # the group of equal rewards kept by DAPO or dropped by the others would differ.
  arrays = batch(1, per_token)
  weights = np.random.default_rng(9).random(arrays[0].shape) * 2
  others = []
  with jax.enable_x64(True):
    for kl in (k1, k2, k3):
      got, _ = our_loss(name, arrays, weights, kl.__name__)
      wanted = loop_loss(name, arrays, weights, kl)
      np.testing.assert_allclose(got, wanted, rtol=1e-12, err_msg=kl.__name__)
      others.append(wanted)
  assert np.ptp(others) > 1e-3


def test_the_family_has_different_members():
  # The loops of two members that agree would not tell which of them was computed.
  values = [loop_loss(name, batch(1), np.ones((5, 4, 6))) for name in NAMES]
  assert min(np.diff(sorted(values))) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences(name):
  # A gradient through CISPO's weight, or GSPO's with the ratio of one token only, or
  # stopped where it must not be.
  arrays = batch(2)
  weights = np.random.default_rng(9).random(arrays[0].shape) * 2
  # GSPO's stop-gradient form is its ratio's gradient only if tokens weigh the same.
  weights = np.ones_like(weights) if name == "gspo" else weights
  with jax.enable_x64(True):
    gradient = jax.grad(lambda new: our_loss(name, arrays, weights, new=new)[0])(
      jnp.asarray(arrays[0])
    )
  for index in np.ndindex(arrays[0].shape):
    sides = []
    for step in (1e-6, -1e-6):
      moved = arrays[0].copy()
      moved[index] += step
      moved = (moved, *arrays[1:])
      sides.append(loop_loss(name, moved, weights, weighing=arrays[0]))
    numeric = (sides[0] - sides[1]) / 2e-6
    np.testing.assert_allclose(gradient[index], numeric, atol=1e-8, err_msg=str(index))


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_and_padding_is_nothing(name):
  # Weights of a part's own mask, or NaN let through at a place that does not count.
  new, old, ref, advantages, lengths, mask = batch(3)
  outside = (np.arange(new.shape[-1]) >= lengths[..., None]) | ~mask[..., None]
  dirty = [np.where(outside, x, y) for x, y in ((np.nan, new), (-np.inf, old))]
  arrays = (*dirty, ref, np.where(mask, advantages, np.nan), lengths, mask)
  arrays = [jnp.asarray(x) for x in arrays]
  loss = rl.LOSSES[name]
  weights = loss.weights(arrays[5], arrays[4], arrays[3], LONGEST)
  options = {"clip": CLIP, "clip_high": HIGHS[name], "beta": BETA}

  def part(logprobs, rows):
    cut = [logprobs[rows], *(x[rows] for x in arrays[1:])]
    return rl.policy_loss(loss, *cut, weights=weights[rows], **options)[0]

  def both(logprobs):
    return part(logprobs, slice(0, 1)) + part(logprobs, slice(1, 5))

  clean = (new, old, ref, advantages, lengths, mask)
  value, gradient = jax.value_and_grad(both)(arrays[0])
  np.testing.assert_allclose(value, our_loss(name, clean)[0], rtol=1e-5)
  wanted = jax.grad(lambda new: our_loss(name, clean, new=new)[0])(jnp.asarray(new))
  np.testing.assert_allclose(gradient, wanted, atol=1e-6)
  assert not np.asarray(gradient)[outside].any()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_learn_from_is_zero(name):
  # 0 / 0; for DAPO equal rewards everywhere are nothing, without KL for the others too.
  new, old, ref, advantages, lengths, mask = batch(4)
  for empty in (
    (new, old, ref, advantages, lengths, mask & False),
    (new, old, ref, advantages, lengths * 0, mask),
    (new, old, new, advantages * 0, lengths, mask),
  ):
    loss, metrics = our_loss(name, empty)
    assert float(loss) == 0.0 and np.isfinite([*metrics.values()]).all()
  flat = (new, old, ref, advantages * 0, lengths, mask)
  assert (float(our_loss(name, flat)[0]) == 0.0) == (name == "dapo")


def test_golden_members():
  """Two responses of 1 and 3 tokens, A = 1 and -1, ratios 1.5 | 1.5, 1, 1; clip .2, .3.

  GRPO: 1.3 and -(3.5 / 3): -(1.3 - 1.16667) / 2. Dr. GRPO over 9: -(1.3 - 3.5) / 18.
  DAPO: -(1.3 - 3.5) / 4. GSPO: 1.3 and -1.5^(1/3) = -1.14471. CISPO at log-probs -1,
  bound 1.2: (1.2 - 1.2 - 1 - 1) / 4.
  """
  new = jnp.full((1, 2, 3), -1.0)
  old = new - jnp.log(jnp.array([[[1.5, 1, 1], [1.5, 1, 1]]]))
  arrays = (new, old, new, np.array([[1.0, -1]]), np.array([[1, 3]]))
  golden = {
    "grpo": -0.0666667,
    "dr_grpo": 0.1222222,
    "dapo": 0.55,
    "gspo": -0.0776431,
    "cispo": -0.5,
  }
  for name, wanted in golden.items():
    got, _ = our_loss(name, (*arrays, np.ones((1, 2), bool)))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, err_msg=name)


def test_advantages_without_the_std():
  # Divided by the std (ddof = 1), 2, the first would be 1.
  rewards, mask = jnp.array([[4.0, 2.0, 0.0, 9.0]]), jnp.array([[True] * 3 + [False]])
  got = rl.group_advantages(rewards, mask, 0.4, "none")
  np.testing.assert_allclose(got, [[2.0, 0.0, -2.0, 0.0]], atol=1e-6)
  slots = rl.question_advantages(
    rewards[..., None], mask[..., None], jnp.zeros((1, 4, 1), int), 0.4, "none"
  )
  np.testing.assert_allclose(slots[..., 0], got, atol=1e-6)
  with pytest.raises(ValueError, match="no scale 'var'.*none"):
    rl.group_advantages(rewards, mask, 0.0, "var")
