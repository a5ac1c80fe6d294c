"""Stage 2: the language model, by packed rows with a pointer loss on top.

A group of heads of the last layer but one is taught to look, from each noun phrase and
from where the answer starts, at the visual tokens of what is meant. Without such a
lesson a model this small stays at the language prior (measured: `fmd_jax/LOG.md`).
"""

import collections
import dataclasses
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from fmd_jax.models.text import mrope_angles
from fmd_jax.testbed import packed
from fmd_jax.testbed.dataset import CELLS, Encoded
from fmd_jax.testbed.towers import adam

_POINTER_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True)
class Layout:
  """How many texts a step sees: pictures, rows a picture, tokens a row."""

  pictures: int
  rows: int
  length: int
  texts: int  # tried for a picture; those without room are left out


def pointing_layer(config) -> int:
  """The layer whose attention is taught."""
  return config.text.num_hidden_layers - 2


def pointer_loss(model, rows: packed.Rows, batch: packed.Batch, points):
  """Cross-entropy of where the last layer but one looks, for a group of its heads.

  Args:
    model: whose own attention is taught; no parameters but its own.
    rows: the tapped states and the prompt's keys.
    batch: the batch.
    points: [B, G, T, 16] which cells a token means, summing to 1, or 0 for no lesson.
  """
  tap = pointing_layer(model.config)
  graphdef, params = nnx.split(model.language_model.layers)
  layer = nnx.merge(graphdef, jax.tree.map(lambda p: p[tap], params))
  positions = jnp.broadcast_to(batch.positions[None], (3, *batch.positions.shape))
  angles = mrope_angles(positions, model.config.text)
  hidden = layer.input_layernorm(rows.tapped)
  queries, _, _ = layer.self_attn.qkv(hidden, jnp.cos(angles), jnp.sin(angles))
  keys = rows.prefix[0][tap][:, :, 0]  # of the first group
  heads = queries.shape[-2] // model.config.text.num_key_value_heads
  logits = jnp.einsum("bgtrh,bph->bgtrp", queries[..., :heads, :], keys)
  logits = logits / np.sqrt(keys.shape[-1])
  logits = jnp.where(batch.prompt_mask[:, None, None, None], logits, -1e9)
  # From cells to places in the prompt.
  image = batch.prompt_ids == model.config.image_token_id
  cell = jax.nn.one_hot(jnp.cumsum(image, -1) - 1, CELLS) * image[..., None]
  wanted = jnp.einsum("bgtn,bpn->bgtp", points, cell)[..., None, :]
  active = points.sum(-1)
  nll = -(wanted * jax.nn.log_softmax(logits)).sum(-1).mean(-1)
  total = jnp.maximum(active.sum(), 1.0)
  value = (nll * active).sum() / total
  mass = (jax.nn.softmax(logits) * (wanted > 0)).sum(-1).mean(-1)
  hit = (mass * active).sum() / total
  return _POINTER_WEIGHT * value, {"pointer": value, "pointer_mass": hit}


@dataclasses.dataclass
class Prompt:
  """The shared prompt of one role for one picture: all but its last token.

  Attributes:
    ids: [P] with the image tokens in place.
    last: the last prompt token; each text starts from it, so that its first own
      token is predicted inside the row.
    positions: [3, P].
    next_position: M-RoPE position of `last`.
  """

  ids: np.ndarray
  last: int
  positions: np.ndarray
  next_position: int


def batch_of(
  prompt: Prompt | list[Prompt],
  features: np.ndarray,
  texts: list[list[Encoded]],
  layout: Layout,
) -> tuple[packed.Batch, np.ndarray, list]:
  """Packs the texts of some pictures.

  Args:
    prompt: of all pictures, or one each.
    features: [B, 16, F].
    texts: of each picture.

  Returns:
    The batch, pointer targets [B, G, T, 16] and where each text lies.
  """
  prompts = prompt if isinstance(prompt, list) else [prompt] * len(texts)
  longest = max(len(p.ids) for p in prompts)
  arrays = collections.defaultdict(list)
  points = np.zeros((len(texts), layout.rows, layout.length, CELLS), np.float32)
  places = []
  for b, (own, p) in enumerate(zip(texts, prompts, strict=True)):
    rows = [
      (np.append([p.last], t.ids).astype(np.int32), np.append([False], t.learned))
      for t in own
    ]
    tokens, offsets, segments, weights, placed = packed.pack(
      rows, layout.rows, layout.length
    )
    for index, row, start in placed:
      n = len(own[index].points)
      points[b, row, start + 1 : start + 1 + n] = own[index].points
    pad = longest - len(p.ids)
    arrays["prompt_ids"].append(np.pad(p.ids, (0, pad)))
    arrays["prompt_positions"].append(np.pad(p.positions, ((0, 0), (0, pad))))
    arrays["prompt_mask"].append(np.arange(longest) < len(p.ids))
    arrays["tokens"].append(tokens)
    arrays["positions"].append(offsets + p.next_position)
    arrays["segments"].append(segments)
    arrays["weights"].append(weights)
    places.append(placed)
  stacked = {
    k: np.stack(v, 1 if k == "prompt_positions" else 0) for k, v in arrays.items()
  }
  flat = features.reshape(-1, features.shape[-1])
  return packed.Batch(image_features=flat, **stacked), points, places


def train(model, prompts, features, texts, layout: Layout, *, steps, peak, seed):
  """Fine-tunes everything but the vision tower.

  Args:
    prompts: a `Prompt`, or a list of one for each kind of text.
    features: [N, 16, F] of all pictures.
    texts: [N][kinds][n] encoded texts; a step draws one kind a picture.
    layout: of a step.

  Returns:
    The trained model.
  """
  graphdef, frozen, params = nnx.split(model, nnx.PathContains("visual"), ...)
  optimizer = adam(peak, steps)
  opt_state = optimizer.init(params)
  step = packed.make_step(
    graphdef, optimizer, pointer_loss, pointing_layer(model.config)
  )
  rng, start, history, seen = random.Random(seed), time.time(), [], 0
  kinds = prompts if isinstance(prompts, list) else [prompts]
  for i in range(steps):
    chosen = np.array(rng.sample(range(len(features)), layout.pictures))
    kind = [rng.randrange(len(kinds)) for _ in chosen]
    picked = [
      rng.sample(texts[n][k], min(layout.texts, len(texts[n][k])))
      for n, k in zip(chosen, kind, strict=True)
    ]
    batch, points, places = batch_of(
      [kinds[k] for k in kind], features[chosen], picked, layout
    )
    seen += sum(map(len, places))
    params, opt_state, metrics = step(params, frozen, opt_state, batch, points)
    history.append(metrics)
    if (i + 1) % 200 == 0 or i + 1 == steps:
      got = jax.device_get(history)
      history = []
      shown = {k: float(np.mean([m[k] for m in got])) for k in got[0]}
      line = " ".join(f"{k} {v:.3f}" for k, v in shown.items())
      logging.info(
        "language %d/%d %s; %d texts (%.0f s)",
        i + 1, steps, line, seen, time.time() - start,
      )  # fmt: skip
  return nnx.merge(graphdef, params, frozen)


def exact_matches(model, prompt: Prompt, features, texts, layout: Layout) -> list:
  """Whether greedy decoding says exactly each text's learned part.

  Returns:
    A list for each picture of one bool a text (None when it found no room).
  """
  graphdef, state = nnx.split(model)

  @jax.jit
  def predict(state, batch):
    return _greedy_next(nnx.merge(graphdef, state), batch)

  results = []
  for at in range(0, len(features), layout.pictures):
    part = texts[at : at + layout.pictures]
    batch, _, places = batch_of(
      prompt, features[at : at + layout.pictures], part, layout
    )
    wrong = np.asarray(predict(state, batch))
    for b, placed in enumerate(places):
      row: list = [None] * len(part[b])
      for index, r, first in placed:
        row[index] = not wrong[b, r, first : first + len(part[b][index].ids)].any()
      results.append(row)
  return results


def _greedy_next(model, batch: packed.Batch) -> jax.Array:
  """bool [B, G, T]: the learned next token is not the likeliest."""
  logits = packed.rows_of(model, batch).logits
  next_tokens = jnp.roll(batch.tokens, -1, axis=-1)
  return (logits.argmax(-1) != next_tokens) & (batch.weights > 0)
