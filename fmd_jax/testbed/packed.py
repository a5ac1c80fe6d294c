"""The recipe's lessons: many short texts, packed into the rows of a shared prompt.

Each image and its prompt run once; the texts about that image are rows that attend to
it. Several may share a row as segments that don't see each other, and an auxiliary loss
may look at a layer's states. Logits are whole here: fine for a vocabulary of 824, and
why `methods/tuning.py` trains through the update instead (a test holds them equal).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Batch(NamedTuple):
  """B images, G rows each of T tokens; `M` visual tokens in all.

  Attributes:
    image_features: [M, F] from `encode_images`; the vision tower is frozen here.
    prompt_ids: [B, P] the shared prompt, right padded.
    prompt_positions: [3, B, P] its M-RoPE positions.
    prompt_mask: bool [B, P].
    tokens: int [B, G, T].
    positions: int [B, G, T] positions, the same on the three axes.
    segments: int [B, G, T] which text a token belongs to; -1 is padding.
    weights: fp32 [B, G, T] loss weight of predicting `tokens[t + 1]` at t.
  """

  image_features: jax.Array
  prompt_ids: jax.Array
  prompt_positions: jax.Array
  prompt_mask: jax.Array
  tokens: jax.Array
  positions: jax.Array
  segments: jax.Array
  weights: jax.Array


class Rows(NamedTuple):
  """What the model makes of a batch.

  Attributes:
    logits: fp32 [B, G, T, V].
    prefix: keys and values of the prompt, each [L, B, P, KV, h].
    tapped: [B, G, T, D] after the tapped layer, or None.
  """

  logits: jax.Array
  prefix: tuple[jax.Array, jax.Array]
  tapped: jax.Array | None


# (model, rows, batch, targets) -> a loss to add, and metrics
Auxiliary = Callable[[Any, Rows, Batch, Any], tuple[jax.Array, dict]]


def segment_mask(segments: jax.Array) -> jax.Array:
  """Causal mask bool [B, G, T, T] in which segments don't see each other."""
  same = segments[..., :, None] == segments[..., None, :]
  length = segments.shape[-1]
  return same & jnp.tril(jnp.ones((length, length), bool))


def rows_of(model, batch: Batch, tap: int | None = None) -> Rows:
  """Runs the prompts once and the rows on top of them.

  Args:
    model: the vision-language model.
    batch: see `Batch`.
    tap: number of the layer whose output is wanted too; None for none.
  """
  prompt = model.embed(batch.prompt_ids, batch.image_features)[:, None]
  length = batch.prompt_ids.shape[1]
  causal = jnp.tril(jnp.ones((length, length), bool))
  visible = causal & batch.prompt_mask[:, None, None, :]
  _, kv = model.language(prompt, batch.prompt_positions[:, :, None], visible)
  prefix = jax.tree.map(lambda a: a[:, :, 0], kv)
  rows = model.embed(batch.tokens.reshape(batch.tokens.shape[0], -1), None)
  out = model.language(
    rows.reshape(*batch.tokens.shape, -1),
    jnp.broadcast_to(batch.positions[None], (3, *batch.positions.shape)),
    segment_mask(batch.segments),
    prefix=prefix,
    prefix_mask=batch.prompt_mask,
    **({} if tap is None else {"tap": tap}),
  )
  return Rows(model.unembed(out[0]), prefix, None if tap is None else out[2])


def loss(
  model,
  batch: Batch,
  targets: Any = None,
  auxiliary: Auxiliary | None = None,
  tap: int | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted mean cross-entropy, plus an auxiliary loss.

  Args:
    model: the vision-language model.
    batch: see `Batch`.
    targets: what the auxiliary loss aims at.
    auxiliary: None for plain fine-tuning.
    tap: the layer whose output the auxiliary loss sees.

  Returns:
    The scalar loss, and `loss`, `accuracy` and the auxiliary's own metrics.
  """
  rows = rows_of(model, batch, tap)
  logits = rows.logits[:, :, :-1]
  next_tokens, weights = batch.tokens[:, :, 1:], batch.weights[:, :, :-1]
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, next_tokens)
  value = (nll * weights).sum() / jnp.maximum(weights.sum(), 1.0)
  hits = (logits.argmax(-1) == next_tokens) * (weights > 0)
  accuracy = hits.sum() / jnp.maximum((weights > 0).sum(), 1)
  metrics = {"loss": value, "accuracy": accuracy}
  if auxiliary is not None:
    more, named = auxiliary(model, rows, batch, targets)
    value, metrics = value + more, metrics | named
  return value, metrics


def make_step(
  graphdef,
  optimizer: optax.GradientTransformation,
  auxiliary: Auxiliary | None = None,
  tap: int | None = None,
):
  """Builds the jitted step `(params, frozen, opt_state, batch, targets)`.

  `params` and `frozen` are disjoint states of the model (`nnx.split` with a filter).

  Returns:
    A function giving `(params, opt_state, metrics)`; it donates the first and third.
  """

  def step(params, frozen, opt_state, batch, targets):
    def objective(params):
      model = nnx.merge(graphdef, params, frozen)
      return loss(model, batch, targets, auxiliary, tap)

    (_, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics

  return jax.jit(step, donate_argnums=(0, 2))


def pack(texts: list[tuple[np.ndarray, np.ndarray]], rows: int, length: int):
  """Lays texts into rows of tokens, greedily.

  Args:
    texts: (ids [S], learned bool [S]) of each text, in the order of preference.
    rows: G.
    length: T.

  Returns:
    tokens, offsets (position within the text), segments, weights (all [G, T]) and
    `(index of the text, row, start)` of each text that found room.
  """
  tokens = np.zeros((rows, length), np.int32)
  offsets = np.zeros((rows, length), np.int32)
  segments = np.full((rows, length), -1, np.int32)
  weights = np.zeros((rows, length), np.float32)
  used, placed = [0] * rows, []
  for index, (ids, learned) in enumerate(texts):
    row = next((r for r in range(rows) if used[r] + len(ids) <= length), None)
    if row is None:
      continue
    span = slice(used[row], used[row] + len(ids))
    tokens[row, span], offsets[row, span] = ids, np.arange(len(ids))
    segments[row, span] = index
    # The loss at t is on token t + 1 of the same text.
    weights[row, span.start : span.stop - 1] = learned[1:]
    placed.append((index, row, used[row]))
    used[row] += len(ids)
  return tokens, offsets, segments, weights, placed
