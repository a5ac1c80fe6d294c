"""The scorer against whole rows run one by one, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models
from fmd_jax.models import scoring
from tests.models import tiny

GROUP, LENGTH, TEMPERATURE = 3, 5, 0.7
# Responses of every kind: whole, of one token, of none (a masked row).
LENGTHS = np.array([[5, 1, 3], [4, 5, 0]])


@pytest.fixture(scope="module", params=tiny.FAMILIES, ids=tiny.FAMILY_NAMES)
def case(request):
  """Two prompts of unequal length with unequal images, three completions each."""
  model = tiny.model(seed=0, **request.param)
  config = model.config
  prompts = tiny.prompts(config, [(4, 6), (4, 4)], [16, 12])
  positions, following = models.mrope_positions(
    prompts.input_ids, prompts.image_grid_thw, prompts.lengths, config
  )
  rng = np.random.default_rng(1)
  allowed = models.sampleable_tokens(
    config, tiny.special_ids(), tiny.processor_vocabulary()
  )
  completions = rng.choice(np.flatnonzero(allowed), (2, GROUP, LENGTH))
  # What stands in the padding must not matter, not even a forbidden token.
  real = np.arange(LENGTH) < LENGTHS[..., None]
  completions = np.where(real, completions, config.image_token_id).astype(np.int32)
  return {
    "model": model,
    "prompts": prompts,
    "positions": positions,
    "following": following,
    "allowed": allowed,
    "completions": completions,
    "weights": rng.normal(size=(2, 2, GROUP, LENGTH)).astype(np.float32),
    "plan": models.vision_plan(prompts.image_grid_thw, config.vision),
  }


def shared(model, case, **settings):
  prompts = case["prompts"]
  return scoring.completion_logprobs(
    model,
    model.encode_images(prompts.pixel_values, case["plan"]),
    prompts.input_ids,
    prompts.lengths,
    case["positions"],
    case["following"],
    case["completions"],
    LENGTHS,
    case["allowed"],
    temperature=TEMPERATURE,
    **settings,
  )


def plain_logprobs(model, case):
  """[B * G, P + T] rows without padding between, prefix, chunks or masks of keys."""
  prompts, config = case["prompts"], model.config
  batch, width = prompts.input_ids.shape
  size = width + LENGTH
  ids = np.full((batch * GROUP, size), config.pad_token_id, np.int32)
  places = np.zeros((batch * GROUP, LENGTH), np.int32)
  for row in range(batch * GROUP):
    b, g = divmod(row, GROUP)
    n = prompts.lengths[b]
    ids[row, :n] = prompts.input_ids[b, :n]
    ids[row, n : n + LENGTHS[b, g]] = case["completions"][b, g, : LENGTHS[b, g]]
    places[row] = n - 1 + np.arange(LENGTH)
  grids = np.repeat(prompts.image_grid_thw, GROUP, axis=0)
  ends = np.repeat(prompts.lengths, GROUP) + LENGTHS.ravel()
  positions, _ = models.mrope_positions(ids, grids, ends, config)
  starts = np.cumsum([0, *prompts.image_grid_thw.prod(-1)])
  pixels = np.concatenate(
    [
      prompts.pixel_values[starts[b] : starts[b + 1]]
      for b in np.repeat(np.arange(batch), GROUP)
    ]
  )
  features = model.encode_images(pixels, models.vision_plan(grids, config.vision))
  hidden, _ = model.language(
    model.embed(ids, features)[:, None],
    positions[:, :, None],
    jnp.tril(jnp.ones((1, 1, size, size), bool)),
  )
  states = jnp.take_along_axis(hidden[:, 0], places[..., None], axis=1)
  logits = model.unembed(states.reshape(batch, GROUP, LENGTH, -1)) / TEMPERATURE
  # Over the allowed tokens alone, rather than with a large negative number.
  kept = jax.nn.log_softmax(logits[..., case["allowed"]])
  index = np.cumsum(case["allowed"]) - 1
  real = np.arange(LENGTH) < LENGTHS[..., None]
  chosen = index[np.where(real, case["completions"], 0)]
  logprobs = jnp.take_along_axis(kept, chosen[..., None], -1)[..., 0]
  entropy = -(jnp.exp(kept) * kept).sum(-1)
  return jnp.where(real, logprobs, 0.0), jnp.where(real, entropy, 0.0)


def scores_and_gradient(function, case):
  graphdef, params = nnx.split(case["model"])

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def objective(params):
    scores = function(nnx.merge(graphdef, params), case)
    value = sum(jnp.sum(s * w) for s, w in zip(scores, case["weights"]))
    return value, scores

  (_, scores), gradient = objective(params)
  return scores, gradient


@pytest.fixture(scope="module")
def oracle(case):
  return scores_and_gradient(plain_logprobs, case)


@pytest.mark.parametrize(
  "settings", [{}, {"chunk": 7, "remat": False}], ids=["whole", "chunked, no remat"]
)
def test_equals_whole_rows_in_value_and_gradient(case, oracle, settings):
  # Wrong: the first token predicted from the padding's state; padding of the prompt
  # seen; completions numbered from the prompt's length and not after its image; a
  # gradient that does not flow back through the shared prompt into the vision tower,
  # or (Qwen3-VL) not through what deepstack adds.
  scores, gradient = scores_and_gradient(functools.partial(shared, **settings), case)
  for got, wanted in zip(scores, oracle[0]):
    np.testing.assert_allclose(got, wanted, atol=1e-5)
  pairs = zip(nnx.to_flat_state(gradient), nnx.to_flat_state(oracle[1]))
  for (path, got), (_, wanted) in pairs:
    got, wanted = np.asarray(got[...]), np.asarray(wanted[...])
    assert np.isfinite(got).all(), path
    assert np.abs(got - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max()), path
  touched = gradient["visual"]["patch_embed"]["kernel"][...]
  assert np.abs(touched).max() > 1e-3


def test_padding_scores_zero(case, oracle):
  # Unmasked, the padding holds -inf (a forbidden token), and -inf * 0 may be NaN.
  scores, _ = oracle
  logprobs, entropy = jax.jit(lambda: shared(case["model"], case))()
  padding = np.arange(LENGTH) >= LENGTHS[..., None]
  assert (np.asarray(logprobs)[padding] == 0).all()
  assert (np.asarray(entropy)[padding] == 0).all()
  assert (np.asarray(logprobs)[~padding] < 0).all()
  assert (np.asarray(entropy)[~padding] > 0).all()


@pytest.mark.parametrize("chunk", [None, 4])
def test_allowed_tokens_share_all_probability(chunk):
  # Masked after the softmax, the allowed ones would add up to less than 1.
  model = tiny.model(seed=1)
  size = model.config.text.vocab_size
  allowed = np.arange(size) % 3 == 0
  rng = np.random.default_rng(0)
  hidden = np.repeat(rng.normal(size=(1, 32)), size, 0).astype(np.float32)
  score = functools.partial(
    scoring.token_scores,
    model,
    hidden,
    np.arange(size),
    temperature=0.5,
    chunk=chunk,
  )
  logprobs, entropy = score(allowed)
  assert np.isneginf(np.asarray(logprobs)[~allowed]).all()
  p = np.exp(np.asarray(logprobs, np.float64)[allowed])
  np.testing.assert_allclose(p.sum(), 1, atol=1e-5)
  np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(), atol=1e-4)
  logits = np.asarray(model.unembed(hidden[0])) / 0.5
  wanted = logits - jax.nn.logsumexp(logits[allowed])
  np.testing.assert_allclose(logprobs[allowed], wanted[allowed], atol=1e-5)


def test_chunks_bound_the_logits():
  # Without chunks, or without recomputing them in the backward pass, logits of all
  # 4096 tokens, 5.6 MB, are a temporary of the program; a chunk's are 44 kB.
  model = tiny.model(seed=1)
  graphdef, params = nnx.split(model)
  hidden, tokens = jnp.ones((4096, 32)), jnp.zeros(4096, int)
  allowed = np.ones(model.config.text.vocab_size, bool)

  def total(params, hidden, chunk):
    model = nnx.merge(graphdef, params)
    return scoring.token_scores(model, hidden, tokens, allowed, chunk=chunk)[0].sum()

  def temporary(chunk):
    program = jax.jit(jax.grad(lambda p, h: total(p, h, chunk), (0, 1)))
    compiled = program.lower(params, hidden).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits = 4096 * len(allowed) * 4
  assert temporary(32) < logits / 2
  assert temporary(4096) >= logits


def test_sampleable_tokens():
  # A policy that may emit <|image_pad|> breaks every later forward pass; one that may
  # not emit its end token never stops.
  config = tiny.config()
  special, size = tiny.special_ids(), tiny.processor_vocabulary()
  got = models.sampleable_tokens(config, special, size)
  assert got.shape == (tiny.VOCABULARY,) and got.dtype == bool
  assert not got[size:].any()
  assert got[: tiny.WORDS].all()
  kept = set(np.flatnonzero(got[:size])[tiny.WORDS :])
  assert kept == set(config.eos_token_ids) | {tiny.WORDS + 14, tiny.WORDS + 15}
  alone = models.sampleable_tokens(config, ())
  vision = [config.image_token_id, config.vision_start_token_id, config.video_token_id]
  assert not alone[vision].any()
