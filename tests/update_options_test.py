"""What a config may choose about the update: loss, budget, precision, adapters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import discover, inference, models, records, rl, update
from fmd_jax.models import lora
from fmd_jax.questioner import sampler
from fmd_jax.update import batch as batches
from tests import update_test as shared
from tests.models import tiny
from tests.runs import small_config

B, G, T = shared.B, shared.G, shared.T


@functools.cache
def _stale():
  noise = np.random.default_rng(1).normal(size=(B, G, T)) * 0.3
  fresh = shared._fresh()
  return fresh._replace(old_logprobs=(fresh.old_logprobs + noise).astype(np.float32))


def _make(model, optimizer="record", **options):
  options = {"beta": shared.BETA, "clip": shared.CLIP} | options
  return update.make_update_fn(
    nnx.graphdef(model),
    shared._optimizer(optimizer),
    temperature=1.0,
    allowed_tokens=shared._allowed(),
    image_token_id=model.config.image_token_id,
    **options,
  )


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.core.jaxprs_in_params(equation.params):
      yield from _equations(inner)


@pytest.mark.slow
def test_another_loss_of_the_family():
  # DAPO over two groups of images, by log-probs of whole rows: tokens averaged within
  # each microbatch, the paper's loss, or a bound or KL that is not passed on.
  model = shared._model()
  mild = _stale()._replace(advantages=np.array(_stale().advantages))
  mild.advantages[0] = 0.0  # a group to leave out
  options = {"loss": "dapo", "kl": "k2", "clip_high": 0.05}
  update_fn = _make(model, microbatches=2, **options)
  state = shared._state(model)
  _, metrics = update_fn(shared._copy(state), mild)
  new, entropy = shared._plain_logprobs(model, mild)
  reference = nnx.merge(nnx.graphdef(model), state.ref_params, state.frozen)
  ref, _ = shared._plain_logprobs(reference, mild)
  chosen = rl.LOSSES["dapo"]
  rest = [jnp.asarray(x) for x in (mild.advantages, mild.lengths, mild.response_mask)]
  weights = chosen.weights(rest[2], rest[1], rest[0], None)
  assert not weights[0].any() and weights[1:].any()
  wanted, others = rl.policy_loss(
    chosen,
    *(jnp.asarray(x, jnp.float32) for x in (new, mild.old_logprobs, ref)),
    *rest,
    weights=weights,
    clip=shared.CLIP,
    clip_high=0.05,
    beta=shared.BETA,
    kl="k2",
  )
  np.testing.assert_allclose(metrics["grpo/loss"], wanted, rtol=1e-4)
  np.testing.assert_allclose(metrics["grpo/kl"], others["kl"], rtol=1e-4)
  within = np.arange(T) < mild.lengths[..., None]
  per_response = np.where(within, entropy, 0).sum(-1) / mild.lengths
  wanted = (per_response * weights).sum()
  np.testing.assert_allclose(metrics["grpo/entropy"], wanted, rtol=1e-4)


def test_dr_grpo_needs_its_constant():
  # Dividing by T instead, which `trim` cuts, the loss would jump from batch to batch.
  with pytest.raises(ValueError, match="dr_grpo needs max_length"):
    _make(shared._model(), loss="dr_grpo")


def test_microbatches_fit_the_budget(monkeypatch):
  # 12 images of P + G T = 20 + 3 * 7 = 41 tokens.
  def number(tokens, images=12):
    batch = shared._fresh()
    prompt = batch.prompt._replace(input_ids=np.zeros((images, 20), np.int32))
    completions = np.zeros((images, G, 7), np.int32)
    batch = batch._replace(prompt=prompt, completions=completions)
    return update.microbatch_number(batch, tokens)

  assert [number(12 * 41), number(12 * 41 - 1), number(6 * 41 - 1)] == [1, 2, 3]
  assert number(3 * 41) == 4 and number(3 * 41 - 1) == 6
  # One image too large for the budget is computed all the same.
  assert number(1) == 12 and number(41, images=7) == 7
  # On 4 devices 3 images each: parts of 12, 4 images, and never fewer.
  monkeypatch.setattr(batches, "batch_shards", lambda: 4)
  assert [number(12 * 41), number(11 * 41), number(1)] == [1, 3, 3]
  assert number(1, images=5) == 5  # does not split: whole on every device


def test_the_budget_reaches_the_update():
  # The program, traced and not compiled, walks along 2 groups of 2 images.
  model, batch = shared._model(), _stale()
  each = batch.prompt.input_ids.shape[1] + G * T
  update_fn = _make(model, microbatch_tokens=3 * each)
  jaxpr = jax.make_jaxpr(update_fn)(shared._state(model), batch).jaxpr
  lengths = {
    e.params["length"]
    for e in _equations(jaxpr)
    if e.primitive.name == "scan" and e.params["num_carry"] >= 15
  }
  assert lengths == {2}
  # fp32 is not touched by anything that makes bfloat16 of it.
  kinds = {v.aval.dtype for e in _equations(jaxpr) for v in e.outvars}
  assert jnp.dtype(jnp.bfloat16) not in kinds


_IN_FP32 = ("exp", "log", "rsqrt", "cos", "sin", "exp2", "expm1")


@pytest.mark.slow
def test_bfloat16_compute_over_fp32_masters():
  # Masters in bfloat16 lose updates of less than 2^-8 of a parameter; a softmax, norm
  # or rotation in bfloat16 is off by as much.
  model, batch = shared._model(), _stale()
  state = update.init_state(
    model, shared._optimizer("record"), ("visual",), frozen_dtype=jnp.bfloat16
  )
  for part, dtype in (
    ("params", jnp.float32),
    ("frozen", jnp.bfloat16),
    ("ref_params", jnp.bfloat16),
  ):
    kinds = {x.dtype for x in jax.tree.leaves(getattr(state, part))}
    assert kinds == {jnp.dtype(dtype)}, part
  update_fn = _make(model, compute_dtype=jnp.bfloat16)
  jaxpr = jax.make_jaxpr(update_fn)(state, batch).jaxpr
  products = set()
  for equation in _equations(jaxpr):
    kinds = {v.aval.dtype for v in equation.invars}
    if equation.primitive.name in _IN_FP32:
      assert kinds == {jnp.dtype(jnp.float32)}, equation
    if equation.primitive.name == "dot_general":
      products |= {frozenset(kinds)}
  # The backward of a product that ends in fp32 has one factor of each type.
  assert frozenset({jnp.dtype(jnp.bfloat16)}) in products
  exact, _ = shared._gradient(shared._update_fn(), shared._state(model, noise=0), batch)
  gradient, metrics = shared._gradient(update_fn, state, batch)
  for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True):
    assert one.dtype == np.float32
    cosine = np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine > 0.97
  assert np.isfinite(metrics["grpo/loss"]) and metrics["grpo/ratio_max_dev"] > 0
  sampled = jax.tree.leaves(update.policy_params(state, jnp.bfloat16))
  assert {x.dtype for x in sampled} == {jnp.dtype(jnp.bfloat16)}


def test_only_adapters_are_trained_and_the_reference_is_the_base():
  # A second copy of the model for a reference, W moved by weight decay, a sampler that
  # leaves the adapters out (its log-probs would be the base's), or a reference with
  # them (the KL would stay 0).
  base = shared._model()
  model = models.add_lora(base, 2, 8.0, ("language_model.layers.*",))
  optimizer = shared._optimizer("adamw")
  state = update.init_state(model, optimizer, beside=("language_model.norm",))
  paths = [path for path, _ in nnx.to_flat_state(state.params)]
  assert [p for p in paths if not lora.is_adapter(p)] == [
    ("language_model", "norm", "scale")
  ]
  assert len(paths) == 15 and not update.trains_vision(state)
  assert jax.tree.map(jnp.shape, state.ref_params) == jax.tree.map(
    jnp.shape, state.params
  )
  frozen = jax.tree.map(np.asarray, state.frozen)
  update_fn = _make(model, "adamw")
  state, first = update_fn(state, shared._fresh())
  assert first["grpo/ratio_max_dev"] <= 1e-4 and abs(first["grpo/kl"]) < 1e-6
  for _ in range(3):
    state, _ = update_fn(state, shared._fresh())
  jax.tree.map(np.testing.assert_array_equal, frozen, state.frozen)
  for path, leaf in nnx.to_flat_state(state.params):
    if path[-1] == lora.B:
      assert np.abs(leaf[...]).max() > 1e-3, path

  config, prompts = base.config, shared._prompts()
  sample = sampler.make_sampler(
    nnx.graphdef(model),
    group_size=G,
    max_new_tokens=T,
    temperature=1.0,
    allowed_tokens=shared._allowed(),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
  )
  plan = models.vision_plan(prompts.image_grid_thw, config.vision)
  samples = sample(
    update.policy_params(state, jnp.float32),
    shared._fresh().prompt,
    prompts.pixel_values,
    plan,
    jax.random.key(8),
  )
  batch = shared._fresh()._replace(
    completions=np.asarray(samples.tokens),
    lengths=np.asarray(samples.lengths),
    old_logprobs=np.asarray(samples.logprobs),
  )
  _, metrics = update_fn(state, batch)
  assert metrics["grpo/ratio_max_dev"] <= 1e-4
  assert metrics["grpo/kl"] > 1e-5


def test_beside_is_a_name():
  # A typo that trained nothing beside the adapters would go unnoticed.
  model = models.add_lora(tiny.model(seed=0), 2, 8.0, ("*.q_proj",))
  with pytest.raises(ValueError, match="beside: no parameter is under 'norm'"):
    update.init_state(model, shared._optimizer("record"), beside=("norm",))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"grpo.loss": "ppo"}, "grpo.loss is 'ppo'; available: grpo, dr_grpo, dapo"),
    ({"grpo.kl": "k4"}, "grpo.kl is 'k4'; available: k1, k2, k3"),
    ({"advantage.scale": "var"}, "advantage.scale is 'var'; available: std, none"),
    ({"precision.compute": "float16"}, "compute is 'float16'.*bfloat16"),
    ({"grpo.loss": "dr_grpo"}, "set config.advantage.scale to 'none'"),
    ({"grpo.loss": "cispo"}, "clip_high is 0.0; cispo bounds the ratio itself"),
    ({"lora.rank": 4, "lora.targets": ()}, "lora.targets is empty"),
  ],
)
def test_a_config_that_cannot_work_is_refused(changes, message):
  # Wrong: a KeyError after the models were loaded, or half of Dr. GRPO.
  with pytest.raises(ValueError, match=message):
    discover.check(small_config(**changes))


@pytest.mark.slow
def test_a_run_with_adapters(tmp_path):
  # An export without what was learnt, or with adapters nobody else can read; a sampler
  # of another policy than the one that is trained.
  changes = {
    "methods": ("grpo",),
    "steps": 2,
    "lora.rank": 2,
    "lora.targets": ("*.q_proj", "visual.merger.*"),
    "grpo.loss": "dapo",
    "grpo.clip_high": 0.28,
    "grpo.microbatch_tokens": 1,
  }
  config = small_config(**changes)
  discover.discover(config, tmp_path)
  measured = records.read_measurements(tmp_path, "grpo")
  assert measured["grpo/ratio_max_dev"].max() <= 1e-4
  before = models.load(inference.checkpoint_folder(config.roles.questioner))
  after = models.load(tmp_path / "questioner_hf")
  assert nnx.graphdef(before) == nnx.graphdef(after)
  moved = {
    path[-2]
    for (path, one), (_, other) in zip(
      nnx.to_flat_state(nnx.state(before)), nnx.to_flat_state(nnx.state(after))
    )
    if np.abs(np.asarray(one[...]) - np.asarray(other[...])).max() > 0
  }
  assert moved == {"q_proj", "fc1", "fc2"}
