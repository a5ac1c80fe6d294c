"""The sampler against the plain forward pass, row by row and without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models, questioner
from fmd_jax.models import scoring
from fmd_jax.questioner import choice, inputs, sampler
from tests.models import tiny

G, T = 8, 10


@functools.cache
def _model():
  return tiny.model(seed=3)


@pytest.fixture
def model():
  return _model()


@functools.cache
def _prompts():
  # Two lengths and two image sizes: one offset for all rows would show.
  return tiny.prompts(_model().config, [(4, 4), (6, 6)], [14, 22])


@pytest.fixture
def prompts():
  return _prompts()


@functools.cache
def _allowed():
  return models.sampleable_tokens(
    _model().config, tiny.special_ids(), tiny.processor_vocabulary()
  )


@functools.cache
def _sampler(group_size, temperature, allowed, steps, **more):
  config = _model().config
  return sampler.make_sampler(
    nnx.graphdef(_model()),
    group_size=group_size,
    max_new_tokens=steps,
    temperature=temperature,
    allowed_tokens=np.frombuffer(allowed, bool),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
    **more,
  )


def _exact(prompts, config):
  """`make_inputs` without its buckets."""
  ids, lengths, pixels, grids = prompts
  prompt = inputs.make_prompt(ids, lengths, grids, config)
  return inputs.Inputs(prompt, pixels, models.vision_plan(grids, config.vision))


def _arguments(model, prompts, seed=0, bucketed=False):
  make = (lambda p, c: inputs.make_inputs(*p, c)) if bucketed else _exact
  return nnx.state(model), *make(prompts, model.config), jax.random.key(seed)


def _sample(
  model,
  prompts,
  *,
  seed=0,
  allowed=None,
  group=G,
  temperature=1.0,
  steps=T,
  bucketed=False,
  **more,
):
  allowed = _allowed() if allowed is None else allowed
  sample = _sampler(group, temperature, allowed.tobytes(), steps, **more)
  arguments = _arguments(model, prompts, seed, bucketed)
  return jax.tree.map(np.asarray, sample(*arguments))


def _places(samples):
  return np.arange(samples.tokens.shape[-1]) < samples.lengths[..., None]


def _log_softmax(logits):
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_the_plain_forward(model, prompts, temperature):
  # Log-probs before the mask, before the temperature, shifted by one token, or with
  # positions of the padded prompt length would differ; so would a done row's noise.
  samples = _sample(model, prompts, temperature=temperature)
  logits = tiny.plain_logits(model, prompts, samples.tokens, samples.lengths)
  expected = _log_softmax(np.where(_allowed(), logits, -np.inf) / temperature)
  expected = np.take_along_axis(expected, samples.tokens[..., None], -1)[..., 0]
  expected = np.where(_places(samples), expected, 0.0)
  np.testing.assert_allclose(samples.logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_the_scorer(model, prompts, temperature):
  # The trainer's ratio starts from this equality: another mask in one of the two
  # gives a ratio that is not 1.
  samples = _sample(model, prompts, temperature=temperature)
  _, prompt, *_ = _arguments(model, prompts)
  graphdef, params = nnx.split(model)

  @jax.jit
  def score(params, *arrays):
    return scoring.completion_logprobs(
      nnx.merge(graphdef, params), *arrays, _allowed(), temperature=temperature
    )

  got, _ = score(
    params, samples.image_features, *prompt, samples.tokens, samples.lengths
  )
  np.testing.assert_allclose(
    np.where(_places(samples), got, 0.0), samples.logprobs, atol=1e-5, rtol=0
  )


def test_features_carry_what_deepstack_adds():
  # Qwen3-VL. Cut to the embeddings, the trainer's prompt is not the sampler's: the
  # log-probs are off by 0.1 and more, and so is the first ratio.
  model = tiny.model(seed=3, **tiny.QWEN3)
  config, group = model.config, 3
  prompts = tiny.prompts(config, [(4, 4), (6, 6)], [14, 22])
  graphdef, params = nnx.split(model)
  sample = sampler.make_sampler(
    graphdef,
    group_size=group,
    max_new_tokens=T,
    temperature=0.7,
    allowed_tokens=_allowed(),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
  )
  given = inputs.make_inputs(*prompts, config)
  samples = jax.tree.map(np.asarray, sample(params, *given, jax.random.key(0)))
  assert samples.image_features.shape[-1] == 2 * config.text.hidden_size

  @jax.jit
  def score(params, *arrays):
    model = nnx.merge(graphdef, params)
    return scoring.completion_logprobs(model, *arrays, _allowed(), temperature=0.7)

  got, _ = score(
    params, samples.image_features, *given.prompt, samples.tokens, samples.lengths
  )
  logits = tiny.plain_logits(model, prompts, samples.tokens, samples.lengths)
  plain = _log_softmax(np.where(_allowed(), logits, -np.inf) / 0.7)
  plain = np.take_along_axis(plain, samples.tokens[..., None], -1)[..., 0]
  for wanted in (got, plain):
    wanted = np.where(_places(samples), wanted, 0.0)
    np.testing.assert_allclose(samples.logprobs, wanted, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_buckets_change_no_token(model, prompts, temperature):
  # A prompt that attends to its padding, an image that attends to padding patches, or
  # features that are shifted by them give other log-probs, soon other tokens.
  exact, bucketed = (
    _sample(model, prompts, temperature=temperature, bucketed=b) for b in (False, True)
  )
  _, prompt, pixels, *_ = _arguments(model, prompts, bucketed=True)
  assert prompt.input_ids.shape[1] > prompts.input_ids.shape[1]
  assert len(pixels) > len(prompts.pixel_values)
  np.testing.assert_array_equal(bucketed.tokens, exact.tokens)
  np.testing.assert_array_equal(bucketed.lengths, exact.lengths)
  np.testing.assert_allclose(bucketed.logprobs, exact.logprobs, atol=1e-5)
  real = len(exact.image_features)
  np.testing.assert_allclose(
    bucketed.image_features[:real], exact.image_features, atol=1e-5
  )


def test_equal_images_keep_their_shapes(model):
  # Padded like photographs, the testbed's batches would pay for places they don't use.
  prompts = tiny.prompts(model.config, [(8, 8)] * 3, [30, 31, 33])
  given = inputs.make_inputs(*prompts, model.config)
  exact = _exact(prompts, model.config)
  jax.tree.map(np.testing.assert_array_equal, given, exact)


def test_greedy_equals_argmax_of_the_plain_forward(model, prompts):
  # A cache written one place off, or a wrong position, changes the argmax soon. All G
  # rows are the same one row: they share the prefill.
  samples = _sample(model, prompts, temperature=0.0)
  single = _sample(model, prompts, temperature=0.0, group=1)
  tokens = np.full((2, 1, T), model.config.pad_token_id, np.int32)
  lengths = np.zeros((2, 1), np.int32)
  done = np.zeros((2, 1), bool)
  for step in range(T):
    logits = tiny.plain_logits(model, prompts, tokens, lengths + ~done)[:, :, step]
    new = np.argmax(np.where(_allowed(), logits, -np.inf), -1)
    tokens[..., step] = np.where(done, model.config.pad_token_id, new)
    lengths += ~done
    done |= np.isin(new, model.config.eos_token_ids)
  assert all(len(set(row[0])) > 3 for row in tokens), "one repeated token says little"
  np.testing.assert_array_equal(single.tokens, tokens)
  np.testing.assert_array_equal(samples.tokens, tokens.repeat(G, 1))
  np.testing.assert_array_equal(samples.lengths, lengths.repeat(G, 1))


def test_prompt_is_computed_once_for_the_group(model, prompts):
  # Repeating the prompt G times would make a [B, G, P, D] array (or B·G rows of it).
  group = 64
  sample = _sampler(group, 1.0, _allowed().tobytes(), 2)
  arguments = _arguments(model, prompts)
  context, state, _ = jax.eval_shape(sample.prefill, *arguments)
  programs = (
    (sample.prefill, arguments),
    (sample.decode, (arguments[0], context, state, arguments[-1], np.zeros(2, int))),
  )
  jaxprs = [jax.make_jaxpr(f)(*given).jaxpr for f, given in programs]
  largest = max(v.aval.size for j in jaxprs for e in _equations(j) for v in e.outvars)
  assert 0 < largest < group * prompts.input_ids.size * model.config.text.hidden_size


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for inner in value if isinstance(value, list | tuple) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from _equations(inner)


def test_a_policy_pushed_to_vision_tokens_emits_none(model, prompts):
  # The weights say "vision token" with certainty; only the mask can stop it. Without
  # the mask the same policy emits little else.
  vision = [model.config.image_token_id, model.config.vision_start_token_id]
  pushed = tiny.push(model, vision)
  free = _sample(pushed, prompts, allowed=np.ones_like(_allowed()))
  assert np.isin(free.tokens, vision).mean() > 0.9
  for temperature in (1.0, 0.0):
    held = _sample(pushed, prompts, temperature=temperature)
    assert _allowed()[held.tokens[_places(held)]].all()
    assert np.isfinite(held.logprobs).all()


def test_lengths_count_the_end_token_even_if_it_is_the_pad(model, prompts):
  # "tokens != pad" would lose the end of a response that ends in <|endoftext|>, the
  # pad id; a loop that stops writing before recording it would lose both ends.
  pad, eos = model.config.pad_token_id, list(model.config.eos_token_ids)
  assert pad in eos and len(eos) == 2
  allowed = np.zeros_like(_allowed())
  allowed[[*eos, 5, 6, 7]] = True
  samples = _sample(model, prompts, group=64, allowed=allowed)
  places, lengths = _places(samples), samples.lengths
  ends = np.isin(samples.tokens, eos) & places
  # One end token, in the last place, unless the row ran out of room.
  assert (ends.sum(-1) == ((lengths < T) | ends[..., -1])).all()
  last = np.take_along_axis(samples.tokens, lengths[..., None] - 1, -1)[..., 0]
  assert np.isin(last[lengths < T], eos).all()
  assert set(eos) <= set(last[lengths < T].tolist()), "both ends must occur"
  assert (samples.tokens[~places] == pad).all()
  assert (samples.logprobs[~places] == 0).all()
  assert (samples.logprobs[places] < 0).all()


def _short(model, ends=2, others=3):
  """A mask with which about one token in a few ends its response."""
  allowed = np.zeros_like(_allowed())
  allowed[[*model.config.eos_token_ids[:ends], *range(5, 5 + others)]] = True
  return allowed


def _plain(model, prompts, temperature, allowed, seed=0, steps=T, min_new_tokens=0):
  """Rows sampled one token after another by whole forward passes, with jax.random."""
  eos = list(model.config.eos_token_ids)
  shape = (len(prompts.input_ids), G)
  tokens = np.full((*shape, steps), model.config.pad_token_id, np.int32)
  lengths, done = np.zeros(shape, np.int32), np.zeros(shape, bool)
  for index in range(steps):
    logits = tiny.plain_logits(model, prompts, tokens, lengths + ~done)[:, :, index]
    kept = allowed.copy()
    kept[eos] &= index >= min_new_tokens
    logits = np.where(kept, logits, -np.inf).astype(np.float32)
    key = jax.random.fold_in(jax.random.key(seed), index)
    new = np.argmax(logits, -1)
    if temperature:
      new = np.asarray(jax.random.categorical(key, logits / temperature))
    tokens[..., index] = np.where(done, model.config.pad_token_id, new)
    lengths += ~done
    done |= np.isin(new, eos)
  return tokens, lengths


@pytest.fixture
def counted(monkeypatch):
  """The rows [B, G] of every decoding step, in order, of samplers made from now on."""
  rows = []
  decoder = models.QwenVL.decoder

  def counting(self, *args):
    step = decoder(self, *args)

    def counted(x, *rest):
      jax.debug.callback(lambda: rows.append(x.shape[:2]))
      return step(x, *rest)

    return counted

  monkeypatch.setattr(models.QwenVL, "decoder", counting)
  _sampler.cache_clear()
  yield rows
  _sampler.cache_clear()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_finished_rows_are_dropped_and_change_nothing(
  model, prompts, counted, temperature, monkeypatch
):
  # Random numbers by place among the rows that are left, rows written back to another's
  # place, or a cache that is not moved along give other tokens than a plain loop; a
  # prompt that is not moved along with its image does so with images dropped too.
  monkeypatch.setattr(sampler, "_LEAST_CACHE", 6)
  steps, allowed = 24, _short(model)
  samples = _sample(
    model,
    prompts,
    allowed=allowed,
    temperature=temperature,
    steps=steps,
    least_left=1,
  )
  jax.effects_barrier()
  tokens, lengths = _plain(model, prompts, temperature, allowed, steps=steps)
  np.testing.assert_array_equal(samples.tokens, tokens)
  np.testing.assert_array_equal(samples.lengths, lengths)
  logits = tiny.plain_logits(model, prompts, tokens, lengths)
  logits = np.where(allowed, logits, -np.inf) / (temperature or 1)
  wanted = np.take_along_axis(_log_softmax(logits), tokens[..., None], -1)[..., 0]
  wanted = np.where(_places(samples), wanted, 0)
  np.testing.assert_allclose(samples.logprobs, wanted, atol=1e-5)
  for index, (images, rows) in enumerate(counted, 1):
    alive = (lengths > index).sum(1)
    assert images == 2 or (alive > 0).sum() == 1
    assert rows == 1 or alive.max() > rows // 2
  if temperature:
    assert {(2, 8), (2, 4), (1, 1)} <= set(counted)


def test_a_long_response_compiles_few_programs(model, prompts, monkeypatch):
  # One program a length would be 40; every length of the cache with every number of
  # rows, were they not doubled and halved, would be dozens.
  assert sampler.cache_lengths(300) == [75, 150, 300]
  monkeypatch.setattr(sampler, "_LEAST_CACHE", 10)
  sample = _sampler(G, 1.0, _short(model, 1, 9).tobytes(), 40, least_left=1)
  for seed in range(2):
    jax.block_until_ready(sample(*_arguments(model, prompts, seed)))
  assert sampler.cache_lengths(40) == [10, 20, 40]
  assert sample.prefill._cache_size() == 1
  # Three lengths, and (2, 8) (2, 4) (2, 2) (2, 1) (1, 1).
  assert 3 < sample.decode._cache_size() <= 3 + 5
  assert sample.merge._cache_size() <= 3 + 5


def test_short_responses_need_one_program(model, prompts):
  # The testbed's: with 10 tokens left at most, dropping rows does not pay.
  sample = _sampler(G, 0.9, _short(model).tobytes(), T)
  for seed in range(3):
    sample(*_arguments(model, prompts, seed))
  assert sample.decode._cache_size() == 1 and sample.regroup._cache_size() == 0


def test_one_scan_for_all_layers_gives_the_same(model, prompts):
  # What runs on a TPU: layers in one scan, each writing its own part of one cache.
  one, other = (
    _sample(model, prompts, scan_layers=s, steps=6, group=4) for s in (True, False)
  )
  np.testing.assert_array_equal(one.tokens, other.tokens)
  np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("least", [1, 4, 30])
def test_no_response_ends_early(model, prompts, least):
  # Ending tokens drawn and thrown away, or masked one place late, give other tokens;
  # log-probs before the mask are lower.
  steps, allowed = 8, _short(model)
  samples = _sample(
    model, prompts, allowed=allowed, steps=steps, min_new_tokens=least, least_left=99
  )
  wanted = _plain(model, prompts, 1.0, allowed, steps=steps, min_new_tokens=least)
  np.testing.assert_array_equal(samples.tokens, wanted[0])
  np.testing.assert_array_equal(samples.lengths, wanted[1])
  assert samples.lengths.min() == min(least + 1, steps)
  first = _log_softmax(
    np.where(
      allowed & ~np.isin(np.arange(len(allowed)), model.config.eos_token_ids),
      tiny.plain_logits(model, prompts, *wanted)[:, :, 0],
      -np.inf,
    )
  )
  first = np.take_along_axis(first, wanted[0][..., :1], -1)[..., 0]
  np.testing.assert_allclose(samples.logprobs[..., 0], first, atol=1e-5)


def test_the_loop_ends_with_the_last_response(model, prompts, counted):
  # Without the early exit it takes T - 1 steps whatever is sampled; a loop that steps
  # once more after the last token wastes one.
  allowed = _short(model, 2, 1)
  for seed in range(4):
    counted.clear()
    samples = _sample(model, prompts, allowed=allowed, group=1, seed=seed, steps=40)
    jax.effects_barrier()
    assert len(counted) == samples.lengths.max() - 1 < 39


def test_noise_is_that_of_jax_random():
  # Another bit order, counter or rounding: other numbers, and every row of a run drawn
  # anew. Rows are skipped, not renumbered.
  key = jax.random.fold_in(jax.random.key(7), 3)
  wanted = np.asarray(jax.random.gumbel(key, (6, 37)))
  rows = np.array([[4, 0], [5, 2]])
  got = np.asarray(jax.jit(choice.gumbel, static_argnums=2)(key, rows, 37))
  np.testing.assert_array_equal(got, wanted[rows])
  with pytest.raises(ValueError, match="threefry"):
    choice.gumbel(jax.random.key(0, impl="rbg"), rows, 37)


def test_choice_of_equals_is_the_first():
  # As jnp.argmax; the last of equals, or a token that is not allowed, would show.
  logits = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, 0.5]])
  tokens, logprobs = choice.choose(logits, None)
  assert tokens.tolist() == [1, 2]
  np.testing.assert_allclose(logprobs, [-np.log(2 + np.exp(-2)), 0], rtol=1e-6)


def test_first_tokens_follow_the_distribution(model, prompts):
  # Sampling from unmasked logits and discarding, or a key shared by the G rows, gives
  # other frequencies.
  group, temperature = 4000, 0.8
  samples = _sample(model, prompts, group=group, temperature=temperature, steps=1)
  none = np.zeros((2, 1, 1), np.int32)
  logits = tiny.plain_logits(model, prompts, none, none[..., 0])[:, 0, 0]
  probs = np.exp(_log_softmax(np.where(_allowed(), logits, -np.inf) / temperature))
  for p, tokens in zip(probs, samples.tokens[..., 0], strict=True):
    frequency = np.bincount(tokens, minlength=len(p)) / group
    error = np.abs(frequency - p) / np.sqrt(p / group + 1e-9)
    assert (p > 2e-3).sum() > 5 and error[p > 2e-3].max() < 5


def test_seeds_and_rows_differ(model, prompts):
  one, again = _sample(model, prompts), _sample(model, prompts)
  other = _sample(model, prompts, seed=1)
  np.testing.assert_array_equal(one.tokens, again.tokens)
  assert (one.tokens != other.tokens).any()
  assert len({row.tobytes() for row in one.tokens[0]}) == G


@pytest.mark.parametrize(
  "kwargs", [{"top_p": 0.6}, {"top_k": 3}, {"top_p": 0.5, "temperature": 2.0}]
)
def test_truncated_distributions(kwargs):
  # Brute force: walk down the sorted probabilities. Cutting before the token that
  # crosses top_p, or applying it before the temperature, keeps another set.
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(50, 12)).astype(np.float32) * 2
  allowed = rng.random(12) < 0.8
  temperature = kwargs.pop("temperature", 1.0)
  got = choice.masked_logits(
    jnp.asarray(logits), jnp.asarray(allowed), temperature, **kwargs
  )
  for row, result in zip(logits, np.asarray(got), strict=True):
    probs = np.exp(_log_softmax(np.where(allowed, row / temperature, -np.inf)))
    kept, mass = set(), 0.0
    for token in np.argsort(-probs, kind="stable"):
      full = mass >= kwargs.get("top_p", 2) or len(kept) >= kwargs.get("top_k", 99)
      if full or not allowed[token]:
        break
      kept.add(int(token))
      mass += probs[token]
    assert set(np.flatnonzero(np.isfinite(result)).tolist()) == kept


def test_generate_ignores_padding_on_either_side(model, prompts):
  # Positions counted over the padding, or attention to it, would change the tokens.
  kwargs = {"max_new_tokens": 6, "temperature": 0.0, "seed": 0}
  ids, lengths, pixels, grid = prompts
  width = ids.shape[1] + 3
  right = np.full((2, width), model.config.pad_token_id, np.int32)
  left = right.copy()
  for b in range(2):
    right[b, : lengths[b]] = ids[b, : lengths[b]]
    left[b, width - lengths[b] :] = ids[b, : lengths[b]]
  places = np.arange(width) < lengths[:, None]
  outputs = [
    questioner.generate(model, right, pixels, grid, attention_mask=places, **kwargs),
    questioner.generate(
      model, left, pixels, grid, attention_mask=places[:, ::-1].astype(int), **kwargs
    ),
  ]
  first = 0
  for b in range(2):
    own = pixels[first : first + int(grid[b].prod())]
    first += int(grid[b].prod())
    alone = questioner.generate(
      model, ids[b : b + 1, : lengths[b]], own, grid[b : b + 1], **kwargs
    )
    assert alone[0].shape == (1, 6) and alone[2].shape == (1,)
    for tokens, logprobs, ends in outputs:
      np.testing.assert_array_equal(tokens[b], alone[0][0])
      np.testing.assert_allclose(logprobs[b], alone[1][0], atol=1e-5)
      assert ends[b] == alone[2][0]


def test_no_end_token_is_refused():
  with pytest.raises(ValueError, match="no response would end"):
    _sampler(1, 1.0, np.zeros_like(_allowed()).tobytes(), 1)
