"""The sampler against the plain forward pass, row by row and without a cache."""

import jax
import numpy as np
import pytest
from flax import nnx

from fmd_jax import questioner
from fmd_jax.models import scoring
from fmd_jax.questioner import inputs, sampler
from tests.models import tiny
from tests.questioner.sampling import (
  G,
  T,
  allowed_tokens,
  arguments_of,
  exact_inputs,
  log_softmax,
  made,
  places_of,
  sample,
)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_the_plain_forward(model, prompts, temperature):
  # Log-probs before the mask, before the temperature, shifted by one token, or with
  # positions of the padded prompt length would differ; so would a done row's noise.
  samples = sample(model, prompts, temperature=temperature)
  logits = tiny.plain_logits(model, prompts, samples.tokens, samples.lengths)
  expected = log_softmax(np.where(allowed_tokens(), logits, -np.inf) / temperature)
  expected = np.take_along_axis(expected, samples.tokens[..., None], -1)[..., 0]
  expected = np.where(places_of(samples), expected, 0.0)
  np.testing.assert_allclose(samples.logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_equal_the_scorer(model, prompts, temperature):
  # The trainer's ratio starts from this equality: another mask in one of the two
  # gives a ratio that is not 1.
  samples = sample(model, prompts, temperature=temperature)
  _, prompt, *_ = arguments_of(model, prompts)
  graphdef, params = nnx.split(model)

  @jax.jit
  def score(params, *arrays):
    return scoring.completion_logprobs(
      nnx.merge(graphdef, params), *arrays, allowed_tokens(), temperature=temperature
    )

  got, _ = score(
    params, samples.image_features, *prompt, samples.tokens, samples.lengths
  )
  np.testing.assert_allclose(
    np.where(places_of(samples), got, 0.0), samples.logprobs, atol=1e-5, rtol=0
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
    allowed_tokens=allowed_tokens(),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
  )
  given = inputs.make_inputs(*prompts, config)
  samples = jax.tree.map(np.asarray, sample(params, *given, jax.random.key(0)))
  assert samples.image_features.shape[-1] == 2 * config.text.hidden_size

  @jax.jit
  def score(params, *arrays):
    model = nnx.merge(graphdef, params)
    return scoring.completion_logprobs(
      model, *arrays, allowed_tokens(), temperature=0.7
    )

  got, _ = score(
    params, samples.image_features, *given.prompt, samples.tokens, samples.lengths
  )
  logits = tiny.plain_logits(model, prompts, samples.tokens, samples.lengths)
  plain = log_softmax(np.where(allowed_tokens(), logits, -np.inf) / 0.7)
  plain = np.take_along_axis(plain, samples.tokens[..., None], -1)[..., 0]
  for wanted in (got, plain):
    wanted = np.where(places_of(samples), wanted, 0.0)
    np.testing.assert_allclose(samples.logprobs, wanted, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_buckets_change_no_token(model, prompts, temperature):
  # A prompt that attends to its padding, an image that attends to padding patches, or
  # features that are shifted by them give other log-probs, soon other tokens.
  exact, bucketed = (
    sample(model, prompts, temperature=temperature, bucketed=b) for b in (False, True)
  )
  _, prompt, pixels, *_ = arguments_of(model, prompts, bucketed=True)
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
  exact = exact_inputs(prompts, model.config)
  jax.tree.map(np.testing.assert_array_equal, given, exact)


def test_greedy_equals_argmax_of_the_plain_forward(model, prompts):
  # A cache written one place off, or a wrong position, changes the argmax soon. All G
  # rows are the same one row: they share the prefill.
  samples = sample(model, prompts, temperature=0.0)
  single = sample(model, prompts, temperature=0.0, group=1)
  tokens = np.full((2, 1, T), model.config.pad_token_id, np.int32)
  lengths = np.zeros((2, 1), np.int32)
  done = np.zeros((2, 1), bool)
  for step in range(T):
    logits = tiny.plain_logits(model, prompts, tokens, lengths + ~done)[:, :, step]
    new = np.argmax(np.where(allowed_tokens(), logits, -np.inf), -1)
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
  sample = made(group, 1.0, allowed_tokens().tobytes(), 2)
  arguments = arguments_of(model, prompts)
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
  free = sample(pushed, prompts, allowed=np.ones_like(allowed_tokens()))
  assert np.isin(free.tokens, vision).mean() > 0.9
  for temperature in (1.0, 0.0):
    held = sample(pushed, prompts, temperature=temperature)
    assert allowed_tokens()[held.tokens[places_of(held)]].all()
    assert np.isfinite(held.logprobs).all()


def test_lengths_count_the_end_token_even_if_it_is_the_pad(model, prompts):
  # "tokens != pad" would lose the end of a response that ends in <|endoftext|>, the
  # pad id; a loop that stops writing before recording it would lose both ends.
  pad, eos = model.config.pad_token_id, list(model.config.eos_token_ids)
  assert pad in eos and len(eos) == 2
  allowed = np.zeros_like(allowed_tokens())
  allowed[[*eos, 5, 6, 7]] = True
  samples = sample(model, prompts, group=64, allowed=allowed)
  places, lengths = places_of(samples), samples.lengths
  ends = np.isin(samples.tokens, eos) & places
  # One end token, in the last place, unless the row ran out of room.
  assert (ends.sum(-1) == ((lengths < T) | ends[..., -1])).all()
  last = np.take_along_axis(samples.tokens, lengths[..., None] - 1, -1)[..., 0]
  assert np.isin(last[lengths < T], eos).all()
  assert set(eos) <= set(last[lengths < T].tolist()), "both ends must occur"
  assert (samples.tokens[~places] == pad).all()
  assert (samples.logprobs[~places] == 0).all()
  assert (samples.logprobs[places] < 0).all()


def test_first_tokens_follow_the_distribution(model, prompts):
  # Sampling from unmasked logits and discarding, or a key shared by the G rows, gives
  # other frequencies.
  group, temperature = 4000, 0.8
  samples = sample(model, prompts, group=group, temperature=temperature, steps=1)
  none = np.zeros((2, 1, 1), np.int32)
  logits = tiny.plain_logits(model, prompts, none, none[..., 0])[:, 0, 0]
  probs = np.exp(log_softmax(np.where(allowed_tokens(), logits, -np.inf) / temperature))
  for p, tokens in zip(probs, samples.tokens[..., 0], strict=True):
    frequency = np.bincount(tokens, minlength=len(p)) / group
    error = np.abs(frequency - p) / np.sqrt(p / group + 1e-9)
    assert (p > 2e-3).sum() > 5 and error[p > 2e-3].max() < 5


def test_seeds_and_rows_differ(model, prompts):
  one, again = sample(model, prompts), sample(model, prompts)
  other = sample(model, prompts, seed=1)
  np.testing.assert_array_equal(one.tokens, again.tokens)
  assert (one.tokens != other.tokens).any()
  assert len({row.tobytes() for row in one.tokens[0]}) == G


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
    made(1, 1.0, np.zeros_like(allowed_tokens()).tobytes(), 1)
