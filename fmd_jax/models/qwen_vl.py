"""The module of a Qwen-VL, and the pieces that sampler, scorer and recipes use.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
S keys · D width · V vocabulary · N patches · M visual tokens · I images · L layers ·
F = D times one and the number of deepstack layers (in Qwen2.5-VL none: F = D).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from fmd_jax.models import layers
from fmd_jax.models.axes import EMBED, VOCAB, Array
from fmd_jax.models.config import ModelConfig
from fmd_jax.models.decode import Stacks, Step, make_step
from fmd_jax.models.permute import fill
from fmd_jax.models.positions import mrope_positions
from fmd_jax.models.text import KV, TextModel
from fmd_jax.models.vision import VisionTower
from fmd_jax.models.vision_plan import VisionPlan, vision_plan
from fmd_jax.sharding import BATCH, BATCH_AXES, constrain


class QwenVL(nnx.Module):
  """The whole model; every method but `__call__` is pure and may be jitted.

  `nnx.split` it once, and `nnx.merge` inside the jitted function.
  """

  def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
    self.config = config
    self.visual = VisionTower(config.vision, dtype, rngs)
    self.language_model = TextModel(config.text, dtype, rngs)
    if config.tie_word_embeddings:
      self.lm_head = None
    else:
      self.lm_head = layers.linear(
        config.text.hidden_size,
        config.text.vocab_size,
        bias=False,
        dtype=dtype,
        rngs=rngs,
      )

  def encode_images(
    self,
    pixel_values: Float[Array, "N patch"] | Float[Array, "parts N patch"],
    plan: VisionPlan,
    *,
    remat: bool | str = True,
  ) -> Float[Array, "M F"] | Float[Array, "parts M F"]:
    """Visual tokens of all images, in order; see `vision.VisionTower`.

    Where patches and plan have a leading axis of parts, so have the tokens: each part's
    images are encoded apart, on the devices that have their rows.
    """
    if pixel_values.ndim == 2:
      return self.visual(pixel_values, plan, remat=remat)
    encode = lambda pixels, plan: self.visual(pixels, plan, remat=remat)  # noqa: E731
    return jax.vmap(encode, spmd_axis_name=BATCH_AXES)(pixel_values, plan)

  def embed(
    self,
    input_ids: Int[Array, "..."],
    image_features: Float[Array, "M F"] | Float[Array, "parts M F"] | None,
  ) -> Float[Array, "... F"]:
    """Token embeddings, with image tokens replaced by the features in order.

    Args:
      input_ids: of any shape, [B, S] or [B, G, T].
      image_features: at least as many as there are image tokens, or [parts, M, F]
        where each of as many equal parts of the rows has features of its own; None
        leaves the image tokens' own embeddings.

    Returns:
      [..., F] with features, what deepstack adds being 0 at all other tokens;
      [..., D] without.
    """
    x = self.language_model.embed_tokens(input_ids)
    # From the table's width to the tokens' batch: told in one step, the partitioner
    # would give every device all of it.
    x = constrain(x, *(None,) * (x.ndim - 1), EMBED)
    x = constrain(x, BATCH, "...", None)
    if image_features is None:
      return x
    width, wanted = image_features.shape[-1], self.config.feature_width
    if width != wanted:
      raise ValueError(f"image features are {width} wide, the model's are {wanted}")
    if width > x.shape[-1]:
      x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
    places = input_ids == self.config.image_token_id
    parts = image_features.shape[:-2]
    flat = (x.reshape(*parts, -1, width), image_features, places.reshape(*parts, -1))
    filled = (jax.vmap(fill) if parts else fill)(*flat)
    return constrain(filled.reshape(x.shape), BATCH, "...", None)

  def language(
    self,
    x: Float[Array, "B G T F"],
    positions: Int[Array, "3 B G T"],
    mask: Bool[Array, "#B #G #T T"] | None,
    prefix: KV | None = None,
    prefix_mask: Bool[Array, "B P"] | None = None,
    *,
    tap: int | None = None,
    last: Int[Array, " B"] | None = None,
    remat: bool | str = True,
  ):
    """Runs rows through the language model.

    Args:
      x: from `embed`, F or D wide. A plain forward has G = 1.
      positions: M-RoPE positions.
      mask: which tokens of its own row a token sees; a size of 1 broadcasts. None:
        itself and those before, so that padding must be on the right; on a TPU this
        is a fused kernel.
      prefix: keys and values [L, B, P, KV, h] of a prompt that the G rows share.
      prefix_mask: which of them are seen; needed with `prefix`.
      tap: also return the hidden state after this many layers, before any final norm
        (transformers' hidden_states[tap]; what deepstack adds there is in it).
      last: the only token of each image's one row whose hidden state is wanted: that of
        the others means nothing. For causal rows without a prefix.
      remat: see `layers.REMAT`; recomputing each layer in the backward pass takes less
        memory, and on a CPU less time too.

    Returns:
      hidden [B, G, T, D] after the final norm, the rows' own keys and values
      [L, B, G, T, KV, h], and with `tap` the tapped state [B, G, T, D].
    """
    return self.language_model(
      x, positions, mask, prefix, prefix_mask, tap=tap, last=last, remat=remat
    )

  def decoder(self, prefix: Stacks, prefix_mask: Bool[Array, "B P"]) -> Step:
    """The step that runs one token of every row; see `decode.make_step`."""
    return make_step(self.language_model, prefix, prefix_mask)

  def head(self) -> tuple[Array, int]:
    """The output head's weight, [D, V] or [V, D] where tied, and the axis of D."""
    if self.lm_head is None:
      return self.language_model.embed_tokens.embedding[...], 1
    return self.lm_head.kernel[...], 0

  def unembed(
    self, hidden: Float[Array, "... D"], head: tuple[Array, int] | None = None
  ) -> Float[Array, "... V"]:
    """Logits in fp32; `head` is the model's own, maybe laid out anew."""
    weight, axis = self.head() if head is None else head
    logits = jax.lax.dot_general(
      hidden.astype(weight.dtype),
      weight,
      (((hidden.ndim - 1,), (axis,)), ((), ())),
      preferred_element_type=jnp.float32,
    )
    return constrain(logits, "...", VOCAB)

  def __call__(
    self,
    input_ids: np.ndarray,
    pixel_values: np.ndarray | None = None,
    image_grid_thw: np.ndarray | None = None,
    attention_mask: np.ndarray | None = None,
  ) -> Float[Array, "B S V"]:
    """Logits of whole rows, from arrays as the Hugging Face processor gives them.

    Args:
      input_ids: int [B, S].
      pixel_values: [N, patch] of all images in row order, or None for text only.
      image_grid_thw: int [I, 3], or None likewise.
      attention_mask: [B, S], 0 on padding, left or right; None when there is none.

    Returns:
      fp32 logits; those at padding mean nothing.

    Raises:
      ValueError: image tokens, grids and patches do not match.
    """
    input_ids = np.asarray(input_ids, np.int32)
    seen = np.ones(input_ids.shape, bool)
    if attention_mask is not None:
      seen = np.asarray(attention_mask).astype(bool)
    plan = None
    if pixel_values is not None:
      pixel_values = np.asarray(pixel_values)
      patches = int(np.prod(image_grid_thw, axis=-1).sum())
      if len(pixel_values) != patches:
        raise ValueError(f"{len(pixel_values)} patches given, the grids have {patches}")
      plan = vision_plan(image_grid_thw, self.config.vision)
    # Positions count real tokens only: compute them without the padding.
    order = np.argsort(~seen, axis=1, kind="stable")
    compact, _ = mrope_positions(
      np.take_along_axis(input_ids, order, 1),
      None if pixel_values is None else image_grid_thw,
      seen.sum(1),
      self.config,
    )
    positions = np.zeros_like(compact)
    np.put_along_axis(positions, np.broadcast_to(order, compact.shape), compact, axis=2)
    graphdef, params = nnx.split(self)
    return _forward(graphdef, params, input_ids, pixel_values, plan, positions, seen)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, params, input_ids, pixel_values, plan, positions, seen):
  model = nnx.merge(graphdef, params)
  features = None if plan is None else model.encode_images(pixel_values, plan)
  length = input_ids.shape[1]
  mask = jnp.tril(jnp.ones((length, length), bool)) & seen[:, None, None]
  hidden, _ = model.language(
    model.embed(input_ids, features)[:, None], positions[:, :, None], mask
  )
  return model.unembed(hidden[:, 0])


def init(config: ModelConfig, seed: int, dtype: Any = jnp.float32) -> QwenVL:
  """A model with random weights, scaled for training from nothing."""
  make = lambda: QwenVL(config, rngs=nnx.Rngs(seed), dtype=dtype)  # noqa: E731
  # One compiled program: run one by one, the initialisers take a minute to compile.
  params = jax.jit(lambda: nnx.state(make()))()
  return nnx.merge(nnx.graphdef(nnx.eval_shape(make)), params)


def sampleable_tokens(
  config: ModelConfig, special_ids: Any, vocab_size: int | None = None
) -> np.ndarray:
  """Which tokens a policy may emit; sampler and scorer use the same mask.

  Args:
    config: the model's; its vision ids are never emitted.
    special_ids: the tokenizer's special ids.
    vocab_size: of the tokenizer: ids from there on mean nothing. None: no such ids.

  Returns:
    bool [V]: false for special ids, vision ids and ids past the tokenizer's; true for
    every end-of-sequence id.
  """
  allowed = np.ones(config.text.vocab_size, bool)
  if vocab_size is not None:
    allowed[vocab_size:] = False
  vision = [
    config.image_token_id,
    config.video_token_id,
    config.vision_start_token_id,
    config.vision_end_token_id,
  ]
  ids = np.array([*vision, *special_ids], int)
  allowed[ids[ids < len(allowed)]] = False
  allowed[list(config.eos_token_ids)] = True
  return allowed
