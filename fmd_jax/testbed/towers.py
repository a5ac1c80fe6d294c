"""Stage 1: the vision tower alone, on dense labels tied to the words.

Every merged token classifies the object whose centre lies in its cell, against the
embeddings of the very words that the language model will speak (and one learned "none"
vector a group). What deepstack takes from an earlier layer has the same lesson: later
stages freeze the tower, and what it never learned to say would be noise to them. The
heads are dropped at export; the word embeddings stay.
"""

import functools
import random
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from absl import logging
from flax import nnx

from fmd_jax.testbed.dataset import CELLS, GROUPS

_SPACE = "Ġ"  # byte-level BPE writes a leading space so
_SCALE = 3.0  # of the logits: embeddings are small at the start


def word_ids(tokenizer: tokenizers.Tokenizer) -> list[np.ndarray]:
  """For each group int [values, 2]: the word's token alone and after a space."""
  table = []
  for values in GROUPS:
    pairs = [[tokenizer.encode(form).ids for form in (v, f" {v}")] for v in values]
    if any(len(ids) != 1 for pair in pairs for ids in pair):
      raise ValueError(f"the tokenizer splits one of {values}")
    table.append(np.array([[ids[0] for ids in pair] for pair in pairs]))
  return table


def embedding(model) -> nnx.Param:
  """The word embeddings [V, D], tied to the output."""
  return model.language_model.embed_tokens.embedding


def start_well(model, tokenizer: tokenizers.Tokenizer) -> None:
  """Two aids to a model this small, before any training.

  "red", " red" and "Red" start from nearly one vector: they are one word here. And
  queries start near keys, so that equal contents attend to each other at once.
  """
  table = np.array(embedding(model)[...])
  for token, index in tokenizer.get_vocab().items():
    for twin in (token[1:], token[1:].capitalize()) if token[0] == _SPACE else ():
      other = tokenizer.token_to_id(twin)
      if twin and other is not None:
        table[other] = table[index] + 0.1 * (table[other] - table[index])
  embedding(model)[...] = jnp.asarray(table)
  attention, config = model.language_model.layers.self_attn, model.config.text
  keys = attention.k_proj.kernel[...]
  shape = (*keys.shape[:2], config.num_key_value_heads, config.head_dim)
  group = config.num_attention_heads // config.num_key_value_heads
  repeated = jnp.repeat(keys.reshape(shape), group, axis=2).reshape(*keys.shape[:2], -1)
  attention.q_proj.kernel[...] = repeated + 0.5 * attention.q_proj.kernel[...]


def loss(features, embedding, heads, words, labels):
  """Mean cross-entropy over cells and groups; objects weigh more than empty cells.

  Each token must also tell which cell it is of: the language model has to know where
  things are, and its own rotations are too slow for so small a picture.

  Args:
    features: [I, 16, D] visual tokens.
    embedding: [V, D].
    heads: "none" [groups, D] and "place" [D, 16]; dropped at export.
    words: see `word_ids`.
    labels: int [I, 16, groups].
  """
  occupied = labels[..., 0] > 0
  weight = jnp.where(occupied, 3.0, 1.0)
  total, hits = 0.0, []
  for group, ids in enumerate(words):
    classes = jnp.concatenate(
      [heads["none"][group : group + 1], embedding[ids].mean(1)]
    )
    logits = features @ classes.T * _SCALE
    target = labels[..., group].astype(jnp.int32)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    total = total + (nll * weight).mean()
    present = target > 0
    right = (logits.argmax(-1) == target) & present
    hits.append(right.sum() / jnp.maximum(present.sum(), 1))
  cells = jnp.broadcast_to(jnp.arange(labels.shape[1]), labels.shape[:2])
  logits = features @ heads["place"]
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, cells)
  hits.append((logits.argmax(-1) == cells).mean())
  return (total + 0.3 * nll.mean()) / 3, jnp.stack(hits)


def schedule(peak: float, steps: int) -> Callable:
  """Warm-up over 100 steps, flat to the middle, then down to 2 %."""
  return optax.join_schedules(
    [
      optax.linear_schedule(peak / 100, peak, 100),
      optax.constant_schedule(peak),
      optax.linear_schedule(peak, 0.02 * peak, steps - steps // 2),
    ],
    [100, max(steps // 2, 101)],
  )


def adam(peak: float, steps: int) -> optax.GradientTransformation:
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(schedule(peak, steps), b2=0.98, weight_decay=0.02),
  )


def train(model, patches, labels, plan, words, *, steps, batch, peak, seed) -> tuple:
  """Trains the vision tower and the word embeddings.

  Args:
    model: the freshly initialised model.
    patches: callable giving patch rows [n·64, patch] of picture indices [n].
    labels: int8 [N, 16, groups].
    plan: the vision plan of `batch` pictures.
    words: see `word_ids`.

  Returns:
    The model and the last accuracies by group of its visual tokens, without what
    deepstack adds.
  """
  trained = nnx.Any(nnx.PathContains("visual"), nnx.PathContains("embed"))
  graphdef, params, frozen = nnx.split(model, trained, ...)
  width = model.config.text.hidden_size
  draw = lambda i, shape: jax.random.normal(jax.random.key(seed + i), shape) * 0.09  # noqa: E731
  heads = {"none": draw(0, (len(words), width)), "place": draw(1, (width, CELLS))}
  optimizer = adam(peak, steps)

  @functools.partial(jax.jit, donate_argnums=(0, 2, 3))
  def step(params, frozen, heads, opt_state, pixels, target):
    def objective(trained):
      merged = nnx.merge(graphdef, trained[0], frozen)
      features = merged.encode_images(pixels, plan)
      features = features.reshape(*target.shape[:2], -1, width)
      table = embedding(merged)[...]
      lesson = lambda part: loss(part, table, trained[1], words, target)  # noqa: E731
      values, hits = jax.vmap(lesson, in_axes=2)(features)
      return values.mean(), hits[0]

    (value, hits), grads = jax.value_and_grad(objective, has_aux=True)((params, heads))
    updates, opt_state = optimizer.update(grads, opt_state, (params, heads))
    params, heads = optax.apply_updates((params, heads), updates)
    return params, heads, opt_state, value, hits

  opt_state = optimizer.init((params, heads))
  rng, start, history = random.Random(seed), time.time(), []
  for i in range(steps):
    chosen = np.array(rng.sample(range(len(labels)), batch))
    params, heads, opt_state, value, hits = step(
      params, frozen, heads, opt_state, patches(chosen), labels[chosen]
    )
    history.append((value, hits))
    if (i + 1) % 200 == 0 or i + 1 == steps:
      values, accuracies = zip(*jax.device_get(history), strict=True)
      history = []
      shown = " ".join(f"{a:.3f}" for a in np.mean(accuracies, 0))
      logging.info(
        "vision %d/%d loss %.3f accuracy %s (%.0f s)",
        i + 1, steps, np.mean(values), shown, time.time() - start,
      )  # fmt: skip
  return nnx.merge(graphdef, params, frozen), np.mean(accuracies, 0)
