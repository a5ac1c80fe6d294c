"""The update against NumPy, finite differences and itself in one piece."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fmd_jax import models, optim, update
from fmd_jax.questioner import inputs as questioner_inputs
from fmd_jax.questioner import sampler
from tests.models import tiny

B, G, T = 4, 3, 7
BETA, CLIP = 0.1, 0.2
FREEZE = ("visual", "language_model.norm")
# Compiling is what these tests cost: programs are shared among them.


@functools.cache
def _model():
  return tiny.model(seed=5)


@pytest.fixture
def model():
  return _model()


@functools.cache
def _allowed():
  return models.sampleable_tokens(
    _model().config, tiny.special_ids(), tiny.processor_vocabulary()
  )


@functools.cache
def _prompts():
  # Images of different sizes: cutting the features into equal parts would mix them.
  grids = [(4, 4), (6, 4), (4, 8), (4, 4)]
  return tiny.prompts(_model().config, grids, [14, 19, 17, 12])


@functools.cache
def _fresh():
  graphdef, params = nnx.split(_model())
  config, prompts = _model().config, _prompts()
  sample = sampler.make_sampler(
    graphdef,
    group_size=G,
    max_new_tokens=T,
    temperature=1.0,
    allowed_tokens=_allowed(),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
  )
  prompt = questioner_inputs.make_prompt(
    prompts.input_ids, prompts.lengths, prompts.image_grid_thw, config
  )
  plan = models.vision_plan(prompts.image_grid_thw, config.vision)
  samples = sample(params, prompt, prompts.pixel_values, plan, jax.random.key(7))
  rng = np.random.default_rng(0)
  mask = np.ones((B, G), bool)
  mask[1, 2] = mask[2, 0] = mask[2, 1] = False
  # Cut some responses short: lengths must differ.
  lengths = np.minimum(samples.lengths, rng.integers(3, T + 1, (B, G)))
  places = np.arange(T) < lengths[..., None]
  return update.TrainBatch(
    prompt=prompt,
    completions=np.asarray(samples.tokens),
    lengths=lengths.astype(np.int32),
    old_logprobs=np.where(places, samples.logprobs, 0.0).astype(np.float32),
    advantages=rng.normal(size=(B, G)).astype(np.float32),
    response_mask=mask,
    image_features=samples.image_features,
    token_weights=np.ones((B, G, T), np.float32),
  )


def _with_pixels(batch):
  """The same batch, its images to be encoded by the update."""
  grids = _prompts().image_grid_thw
  return batch._replace(
    image_features=None,
    pixel_values=_prompts().pixel_values,
    plan=models.vision_plan(grids, _model().config.vision),
  )


def _bucketed(batch):
  """The same batch with prompts and pictures padded as those of photographs are."""
  inputs = questioner_inputs.make_inputs(*_prompts(), _model().config)
  assert inputs.prompt.input_ids.shape[1] > batch.prompt.input_ids.shape[1]
  assert len(inputs.pixel_values) > len(batch.pixel_values)
  return batch._replace(**inputs._asdict())


@pytest.fixture
def fresh():
  """A batch straight from the sampler, with random advantages."""
  return _fresh()


@pytest.fixture
def stale():
  """The same with other old log-probs: ratios on both sides of the clip."""
  noise = np.random.default_rng(1).normal(size=(B, G, T)) * 0.3
  return _fresh()._replace(
    old_logprobs=(_fresh().old_logprobs + noise).astype(np.float32),
    token_weights=np.exp(-np.abs(noise)).astype(np.float32),
  )


@functools.cache
def _optimizer(name):
  if name == "record":  # takes no step; its state is the gradient
    return optax.GradientTransformation(
      lambda params: jax.tree.map(jnp.zeros_like, params),
      lambda gradient, state, params: (jax.tree.map(jnp.zeros_like, params), gradient),
    )
  return optim.make_optimizer(
    3e-3, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0
  )


@functools.cache
def _update_fn(microbatches=1, optimizer="record", masked=True):
  return update.make_update_fn(
    nnx.graphdef(_model()),
    _optimizer(optimizer),
    beta=BETA,
    clip=CLIP,
    microbatches=microbatches,
    temperature=1.0,
    allowed_tokens=_allowed() if masked else np.ones_like(_allowed()),
    image_token_id=_model().config.image_token_id,
  )


def _state(model, freeze=("visual",), seed=2, noise=0.05):
  """A state whose reference differs from its policy; no update moves it."""
  state = update.init_state(model, _optimizer("record"), freeze)
  leaves, tree = jax.tree.flatten(state.ref_params)
  rng = np.random.default_rng(seed)
  moved = [x + noise * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
  return state._replace(ref_params=jax.tree.unflatten(tree, moved))


def _copy(state):
  return jax.tree.map(lambda x: jnp.array(np.asarray(x)), state)


def _gradient(update_fn, state, batch):
  after, metrics = update_fn(_copy(state), batch)
  return jax.tree.map(np.asarray, after.opt_state), metrics


def _assert_close(one, other, tolerance):
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    scale = max(np.abs(x).max(), np.abs(y).max(), 1e-3)
    np.testing.assert_allclose(x / scale, y / scale, atol=tolerance)


def _plain_logprobs(model, batch):
  """[B, G, T] log-probs and entropies by whole forward passes."""
  logits = tiny.plain_logits(model, _prompts(), batch.completions, batch.lengths)
  logits = np.where(_allowed(), logits, -np.inf)
  logits -= np.logaddexp.reduce(logits, -1, keepdims=True)
  chosen = np.take_along_axis(logits, batch.completions[..., None], -1)[..., 0]
  kept = logits[..., _allowed()]
  return chosen, -(np.exp(kept) * kept).sum(-1)


def test_loss_and_metrics_equal_numpy(model, stale):
  # Eq. 1 by loops over plain forward passes: a prompt that is not shared rightly, a
  # mask left out, old and new exchanged, or the mean over all tokens at once differ.
  state = _state(model)
  reference = nnx.merge(nnx.graphdef(model), state.ref_params, state.frozen)
  new, entropy = _plain_logprobs(model, stale)
  ref, _ = _plain_logprobs(reference, stale)
  total, kl_total, entropy_total, clipped = [], [], [], []
  for b in range(B):
    rows = []
    for g in np.flatnonzero(stale.response_mask[b]):
      n = stale.lengths[b, g]
      ratio = np.exp(new - stale.old_logprobs)[b, g, :n]
      a = stale.advantages[b, g]
      surrogate = np.minimum(ratio * a, np.clip(ratio, 1 - CLIP, 1 + CLIP) * a)
      d = (ref - new)[b, g, :n]
      kl = np.exp(d) - d - 1
      loss = (BETA * kl - surrogate) * stale.token_weights[b, g, :n]
      active = np.clip(ratio, 1 - CLIP, 1 + CLIP) * a < ratio * a
      rows.append([loss.mean(), kl.mean(), entropy[b, g, :n].mean(), active.mean()])
    for values, mean in zip(
      (total, kl_total, entropy_total, clipped), np.mean(rows, 0), strict=True
    ):
      values.append(mean)
  _, metrics = _gradient(_update_fn(), state, stale)
  assert abs(np.mean(total)) > 0.01 and np.mean(clipped) > 0.1
  for name, values in [
    ("loss", total),
    ("kl", kl_total),
    ("entropy", entropy_total),
    ("clip_frac", clipped),
  ]:
    np.testing.assert_allclose(metrics[f"grpo/{name}"], np.mean(values), rtol=1e-4)


def test_ratio_is_one_at_the_first_update(model, fresh):
  # With the sampler's recorded log-probs, nothing recomputed. The trainer without the
  # sampler's mask has another distribution, and is caught.
  state = update.init_state(model, _optimizer("record"), ("visual",))
  _, metrics = _update_fn()(_copy(state), fresh)
  assert metrics["grpo/ratio_max_dev"] <= 1e-4
  assert metrics["grpo/clip_frac"] == 0
  assert abs(metrics["grpo/kl"]) < 1e-6
  assert metrics["grpo/grad_norm"] > 1e-3
  _, unmasked = _update_fn(masked=False)(_copy(state), fresh)
  assert unmasked["grpo/ratio_max_dev"] > 1e-3


@pytest.mark.parametrize("freeze,number", [((), 4), (("visual",), 2)])
def test_microbatches_give_the_whole_gradient(model, stale, freeze, number):
  # Averaging over the groups would count image 2, with one response, and a group of
  # images alike only by luck; features cut wrongly give another image's gradient.
  state = _state(model, freeze)
  batch = stale if freeze else _with_pixels(stale)
  whole, metrics = _gradient(_update_fn(), state, batch)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(whole))
  parts, others = _gradient(_update_fn(number), state, batch)
  _assert_close(whole, parts, 1e-5)
  for name, value in metrics.items():
    np.testing.assert_allclose(others[name], value, rtol=1e-4, err_msg=name)


def test_padded_photographs_give_the_same_gradient(model, stale):
  # Features of the padding put into a prompt, a group that starts at another image's,
  # or a padded patch with a gradient of its own would differ.
  state, update_fn, batch = _state(model, ()), _update_fn(4), _with_pixels(stale)
  exact, metrics = _gradient(update_fn, state, batch)
  padded, others = _gradient(update_fn, state, _bucketed(batch))
  _assert_close(exact, padded, 1e-5)
  for name, value in metrics.items():
    np.testing.assert_allclose(others[name], value, rtol=1e-4, err_msg=name)


def test_gradient_equals_finite_differences(model, stale):
  # Of the loss the update reports, along the gradient of each array: one stopped
  # somewhere (the prompt's keys, the image features) is too small there.
  state, stale = _state(model, ()), _with_pixels(stale)
  update_fn = _update_fn(4)
  gradient, _ = _gradient(update_fn, state, stale)
  for path, leaf in nnx.to_flat_state(gradient):
    g = leaf[...].astype(np.float64)
    # Small, for the clip has kinks: the loss moves by 3e-4, its rounding is 1e-7.
    step = 3e-4 * g / np.sum(g * g)

    def loss(step, path=path):
      params = dict(nnx.to_flat_state(state.params))
      params[path] = params[path].replace((params[path][...] + step).astype(np.float32))
      changed = state._replace(params=nnx.from_flat_state(params))
      return float(update_fn(_copy(changed), stale)[1]["grpo/loss"])

    change = loss(step) - loss(-step)
    np.testing.assert_allclose(change, 6e-4, rtol=5e-3, err_msg=".".join(path))


def test_end_token_that_is_the_pad_is_trained(model, fresh):
  # With "tokens != pad" for a mask, the last token of such a response has no gradient.
  pad, other = model.config.pad_token_id, model.config.eos_token_ids[0]
  assert pad != other
  lengths = np.full((B, G), T - 2, np.int32)
  ends, changed = fresh.completions.copy(), fresh.completions.copy()
  ends[..., T - 3 :] = pad
  changed[..., T - 3 :] = pad
  changed[..., T - 3] = other
  state, update_fn = _state(model), _update_fn()
  batch = fresh._replace(completions=ends, lengths=lengths)
  gradient, _ = _gradient(update_fn, state, batch)
  altered, _ = _gradient(update_fn, state, batch._replace(completions=changed))
  head = gradient["lm_head"]["kernel"][...]
  assert np.abs(head[:, pad]).max() > 1e-4
  assert np.abs(head - altered["lm_head"]["kernel"][...]).max() > 1e-4
  # What stands after the end is nothing to the loss.
  after = ends.copy()
  after[..., T - 2 :] = 11
  same, _ = _gradient(update_fn, state, batch._replace(completions=after))
  _assert_close(gradient, same, 1e-6)


def test_frozen_parameters_stay(model, stale):
  # An optimiser over all parameters would let weight decay move the frozen ones.
  optimizer = _optimizer("adamw")
  state = update.init_state(model, optimizer, FREEZE)
  before = jax.tree.map(np.asarray, state)
  after, _ = _update_fn(1, "adamw")(state, stale)
  after, _ = _update_fn(1, "adamw")(after, stale)
  jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
  jax.tree.map(np.testing.assert_array_equal, before.ref_params, after.ref_params)
  names = {path[:2] for path, _ in nnx.to_flat_state(before.frozen)}
  assert ("language_model", "norm") in names and ("visual", "blocks") in names
  for x, y in zip(
    jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
  ):
    assert np.abs(x - y).max() > 0
  assert after.step == 2
  # The model that the state was made from is still whole: its arrays were copied.
  nnx.state(model)["lm_head"]["kernel"][...].block_until_ready()


def test_unknown_prefix_to_freeze(model):
  # A typo that froze nothing would train the vision tower unnoticed; "vis" is a prefix
  # of a string, not of a name.
  for prefix in ("vision", "vis"):
    with pytest.raises(ValueError, match=f"under '{prefix}'; there are .*visual"):
      update.init_state(model, _optimizer("record"), (prefix,))


def test_image_features_may_be_handed_over(model, stale):
  # Another order of images, or features under a gradient, would differ.
  state = _state(model)
  one, _ = _gradient(_update_fn(), state, stale)
  other, _ = _gradient(_update_fn(), state, _with_pixels(stale))
  _assert_close(one, other, 1e-6)
  # Where the vision tower is trained they would cut its gradient off, silently.
  with pytest.raises(ValueError, match="vision tower is trained"):
    _update_fn()(_state(model, ()), stale)
  with pytest.raises(ValueError, match="needs image_features or pixel_values"):
    _update_fn()(state, stale._replace(image_features=None))


def test_masked_responses_do_nothing(model, fresh):
  # Zeros for their rewards would still pull the KL; NaN shows any path.
  state, update_fn = _state(model), _update_fn()
  advantages = np.where(fresh.response_mask, fresh.advantages, np.nan)
  poisoned = fresh._replace(
    advantages=advantages.astype(np.float32),
    old_logprobs=np.where(
      fresh.response_mask[..., None], fresh.old_logprobs, -np.inf
    ).astype(np.float32),
  )
  one, _ = _gradient(update_fn, state, fresh)
  other, metrics = _gradient(update_fn, state, poisoned)
  _assert_close(one, other, 1e-6)
  assert all(np.isfinite(value) for value in metrics.values())


def test_batch_without_a_scored_response_changes_nothing(model, fresh):
  # Adam's momentum and weight decay would move the parameters.
  optimizer = _optimizer("adamw")
  update_fn = _update_fn(1, "adamw")
  state, _ = update_fn(update.init_state(model, optimizer, FREEZE), fresh)
  before = jax.tree.map(np.asarray, state)
  empty = fresh._replace(response_mask=np.zeros((B, G), bool))
  after, metrics = update_fn(state, empty)
  for name in ("params", "opt_state"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(before, name), getattr(after, name)
    )
  assert after.step == 2 and metrics["grpo/loss"] == 0


def test_uneven_microbatches_are_refused(model, fresh):
  with pytest.raises(ValueError, match="4 images do not split into 3 microbatches"):
    _update_fn(3)(_state(model), fresh)


def test_credit_per_token(model, fresh):
  # [B, G, T] advantages that are constant along T are the [B, G] ones.
  state, update_fn = _state(model), _update_fn()
  wide = np.repeat(fresh.advantages[..., None], T, -1)
  one, _ = _gradient(update_fn, state, fresh)
  other, _ = _gradient(update_fn, state, fresh._replace(advantages=wide))
  _assert_close(one, other, 1e-6)


def test_updates_raise_what_is_rewarded(model, fresh):
  # A loss with its sign turned would lower it.
  batch = fresh._replace(
    advantages=np.array([1.0, -0.5, -0.5], np.float32)[None].repeat(B, 0),
    response_mask=np.ones((B, G), bool),
  )
  optimizer = _optimizer("adamw")
  update_fn = _update_fn(1, "adamw")
  state = update.init_state(model, optimizer, FREEZE)
  _, first = update_fn(_copy(state), batch)
  for _ in range(5):
    state, metrics = update_fn(state, batch)
  assert metrics["grpo/loss"] < first["grpo/loss"] - 0.05
  assert metrics["grpo/kl"] > 0
