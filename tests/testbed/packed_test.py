"""Packed, shared-prompt fine-tuning against plain rows, and the packing itself."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmd_jax import models
from fmd_jax.testbed import packed
from tests.models import tiny


def _batch(model, texts, rows, length, prompt_length=7):
  """One picture-less prompt and some texts of token ids."""
  width = model.config.text.hidden_size
  prompt = np.arange(1, prompt_length + 1, dtype=np.int32)[None]
  arrays = packed.pack(texts, rows, length)
  tokens, offsets, segments, weights, placed = (
    a if isinstance(a, list) else a[None] for a in arrays
  )
  positions = np.broadcast_to(np.arange(prompt_length), (3, 1, prompt_length))
  batch = packed.Batch(
    image_features=jnp.zeros((1, width)),
    prompt_ids=prompt,
    prompt_positions=positions.astype(np.int32),
    prompt_mask=np.ones((1, prompt_length), bool),
    tokens=tokens,
    positions=offsets + prompt_length,
    segments=segments,
    weights=weights,
  )
  return prompt[0], batch, placed


def _texts(rng, lengths):
  return [
    (rng.integers(1, 50, n).astype(np.int32), np.arange(n) >= n // 2) for n in lengths
  ]


def test_pack_places_each_text_once_and_learns_what_it_should():
  texts = _texts(np.random.default_rng(0), [5, 4, 6, 9, 3])
  tokens, offsets, segments, weights, placed = packed.pack(texts, rows=2, length=10)
  # The 9 finds no room; a packer that stopped there would also lose the 3.
  assert [index for index, _, _ in placed] == [0, 1, 2, 4]
  for index, row, start in placed:
    ids, learned = texts[index]
    span = slice(start, start + len(ids))
    np.testing.assert_array_equal(tokens[row, span], ids)
    np.testing.assert_array_equal(offsets[row, span], np.arange(len(ids)))
    assert (segments[row, span] == index).all()
    # The weight at t is for token t + 1: unshifted, the first learned token is lost.
    np.testing.assert_array_equal(weights[row, span][:-1], learned[1:])
    assert weights[row, span][-1] == 0
  assert (segments >= 0).sum() == sum(len(texts[i][0]) for i, _, _ in placed)


def test_texts_of_a_row_do_not_see_each_other():
  model = models.init(tiny.config(), seed=0)
  texts = _texts(np.random.default_rng(1), [6, 5, 4])
  prompt, batch, placed = _batch(model, texts, rows=1, length=16)
  got = np.asarray(packed.rows_of(model, batch).logits)
  for index, row, start in placed:
    ids = texts[index][0]
    plain = np.asarray(model(np.concatenate([prompt, ids])[None]))[0, len(prompt) :]
    # Without segments, or with positions that run on, the second text differs.
    np.testing.assert_allclose(
      got[0, row, start : start + len(ids)], plain, atol=2e-4, rtol=1e-4
    )


def test_loss_is_the_mean_over_learned_tokens():
  model = models.init(tiny.config(), seed=0)
  texts = _texts(np.random.default_rng(2), [6, 5])
  prompt, batch, _ = _batch(model, texts, rows=2, length=8)
  total, count = 0.0, 0
  for ids, learned in texts:
    logits = model(np.concatenate([prompt, ids])[None])[0, len(prompt) :]
    logp = np.asarray(jax.nn.log_softmax(logits))
    for t in range(1, len(ids)):
      if learned[t]:
        total, count = total - logp[t - 1, ids[t]], count + 1
  value, metrics = packed.loss(model, batch)
  # A mean over all tokens, padding included, would be smaller.
  np.testing.assert_allclose(float(value), total / count, rtol=1e-4)
  assert float(metrics["loss"]) == float(value)


def test_step_learns_and_leaves_the_frozen_part_alone():
  import optax

  model = models.init(tiny.config(), seed=0)
  _, batch, _ = _batch(model, _texts(np.random.default_rng(3), [6, 5]), 2, 8)
  graphdef, frozen, params = nnx.split(model, nnx.PathContains("visual"), ...)
  before = jax.tree.map(np.array, frozen)
  optimizer = optax.adam(1e-2)
  step = packed.make_step(graphdef, optimizer)
  opt_state, losses = optimizer.init(params), []
  for _ in range(8):
    params, opt_state, metrics = step(params, frozen, opt_state, batch, None)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.7 * losses[0]
  jax.tree.map(np.testing.assert_array_equal, before, frozen)
