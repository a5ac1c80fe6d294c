"""Rows that end early, long responses, and the programs they need."""

import jax
import numpy as np
import pytest

from fmd_jax import models
from fmd_jax.questioner import sampler
from tests.models import tiny
from tests.questioner.sampling import (
  G,
  T,
  arguments_of,
  log_softmax,
  made,
  places_of,
  sample,
  short,
)


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
  made.cache_clear()
  yield rows
  made.cache_clear()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_finished_rows_are_dropped_and_change_nothing(
  model, prompts, counted, temperature, monkeypatch
):
  # Random numbers by place among the rows that are left, rows written back to another's
  # place, or a cache that is not moved along give other tokens than a plain loop; a
  # prompt that is not moved along with its image does so with images dropped too.
  monkeypatch.setattr(sampler, "_LEAST_CACHE", 6)
  steps, allowed = 24, short(model)
  samples = sample(
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
  wanted = np.take_along_axis(log_softmax(logits), tokens[..., None], -1)[..., 0]
  wanted = np.where(places_of(samples), wanted, 0)
  np.testing.assert_allclose(samples.logprobs, wanted, atol=1e-5)
  for index, (images, rows) in enumerate(counted, 1):
    alive = (lengths > index).sum(1)
    assert images == 2 or (alive > 0).sum() == 1
    assert rows == 1 or alive.max() > rows // 2
  if temperature:
    assert {(2, 8), (2, 4), (1, 1)} <= set(counted)


@pytest.mark.slow
def test_a_long_response_compiles_few_programs(model, prompts, monkeypatch):
  # One program a length would be 40. A response goes through the lengths of the cache
  # and the shapes of the rows in one direction: a call makes their sum at most, and all
  # calls together their product.
  assert sampler.cache_lengths(300) == [75, 150, 300]
  monkeypatch.setattr(sampler, "_LEAST_CACHE", 10)
  assert sampler.cache_lengths(40) == [10, 20, 40]
  lengths, shapes = 3, 5  # (2, 8) (2, 4) (2, 2) (2, 1) (1, 1)
  sample = made(G, 1.0, short(model, 1, 9).tobytes(), 40, least_left=1)
  for seed, most in enumerate([lengths + shapes - 1, lengths * shapes]):
    jax.block_until_ready(sample(*arguments_of(model, prompts, seed)))
    assert 3 < sample.decode._cache_size() <= most
    assert sample.merge._cache_size() <= most
  assert sample.prefill._cache_size() == 1


def test_short_responses_need_one_program(model, prompts):
  # The testbed's: with 10 tokens left at most, dropping rows does not pay.
  sample = made(G, 0.9, short(model).tobytes(), T)
  for seed in range(3):
    sample(*arguments_of(model, prompts, seed))
  assert sample.decode._cache_size() == 1 and sample.regroup._cache_size() == 0


def test_one_scan_for_all_layers_gives_the_same(model, prompts):
  # What runs on a TPU: layers in one scan, each writing its own part of one cache.
  one, other = (
    sample(model, prompts, scan_layers=s, steps=6, group=4) for s in (True, False)
  )
  np.testing.assert_array_equal(one.tokens, other.tokens)
  np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


@pytest.mark.parametrize("least", [1, 4, 30])
def test_no_response_ends_early(model, prompts, least):
  # Ending tokens drawn and thrown away, or masked one place late, give other tokens;
  # log-probs before the mask are lower.
  steps, allowed = 8, short(model)
  samples = sample(
    model, prompts, allowed=allowed, steps=steps, min_new_tokens=least, least_left=99
  )
  wanted = _plain(model, prompts, 1.0, allowed, steps=steps, min_new_tokens=least)
  np.testing.assert_array_equal(samples.tokens, wanted[0])
  np.testing.assert_array_equal(samples.lengths, wanted[1])
  assert samples.lengths.min() == min(least + 1, steps)
  first = log_softmax(
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
  allowed = short(model, 2, 1)
  for seed in range(4):
    counted.clear()
    samples = sample(model, prompts, allowed=allowed, group=1, seed=seed, steps=40)
    jax.effects_barrier()
    assert len(counted) == samples.lengths.max() - 1 < 39
