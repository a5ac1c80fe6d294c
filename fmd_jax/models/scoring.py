"""Log-probs of given completions, the prompt of each image being run once.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
D width · F width of a visual token · V vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from fmd_jax.models.axes import Array
from fmd_jax.models.qwen_vl import QwenVL

# fp32 logits of one chunk: 64 MiB.
_CHUNK_LOGITS = 2**24
_FORBIDDEN = -1e30


def _token_scores(
  model: QwenVL,
  hidden: Float[Array, "n D"],
  tokens: Int[Array, " n"],
  allowed_tokens: Bool[Array, " V"],
  temperature: float,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
  logits = model.unembed(hidden) / temperature
  # Finite, so that p * logit is 0 and not NaN where p is 0.
  logits = jnp.where(allowed_tokens, logits, _FORBIDDEN)
  total = jax.nn.logsumexp(logits, -1)
  chosen = jnp.take_along_axis(logits, tokens[:, None], -1)[:, 0]
  mean = jnp.sum(jnp.exp(logits - total[:, None]) * logits, -1)
  return chosen - total, total - mean


def token_scores(
  model: QwenVL,
  hidden: Float[Array, "... D"],
  tokens: Int[Array, "..."],
  allowed_tokens: Bool[Array, " V"],
  *,
  temperature: float = 1.0,
  chunk: int | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Log-prob of each token and entropy of its distribution, through the output head.

  The head is applied to `chunk` tokens at a time and again in the backward pass, so
  that logits of the whole batch never exist.

  Args:
    model: for its head.
    hidden: states that predict `tokens`.
    tokens: same leading shape.
    allowed_tokens: the rest has probability 0 (log-prob -inf).
    temperature: divides the logits; 0 (greedy) leaves them.
    chunk: tokens at a time; None: as many as 64 MiB of logits are.
  """
  shape, count = tokens.shape, tokens.size
  allowed_tokens = jnp.asarray(allowed_tokens)
  temperature = temperature or 1.0
  if chunk is None:
    chunk = max(1, _CHUNK_LOGITS // allowed_tokens.shape[0])
  flat = (hidden.reshape(count, -1), tokens.ravel())
  score = lambda pair: _token_scores(model, *pair, allowed_tokens, temperature)  # noqa: E731
  if chunk >= count:
    scores = score(flat)
  else:
    padding = -count % chunk
    chunks = jax.tree.map(
      lambda x: jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)).reshape(
        -1, chunk, *x.shape[1:]
      ),
      flat,
    )
    scores = jax.lax.map(jax.checkpoint(score), chunks)
    scores = jax.tree.map(lambda x: x.ravel()[:count], scores)
  logprobs, entropy = (x.reshape(shape) for x in scores)
  return jnp.where(allowed_tokens[tokens], logprobs, -jnp.inf), entropy


def completion_logprobs(
  model: QwenVL,
  image_features: Float[Array, "M F"] | None,
  prompt_ids: Int[Array, "B P"],
  prompt_lengths: Int[Array, " B"],
  prompt_positions: Int[Array, "3 B P"],
  next_position: Int[Array, " B"],
  completions: Int[Array, "B G T"],
  completion_lengths: Int[Array, "B G"],
  allowed_tokens: Bool[Array, " V"],
  temperature: float = 1.0,
  chunk: int | None = None,
  remat: bool = True,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
  """Scores the G completions of each of B prompts under the model.

  Equal, in value and gradient, to running all B * G rows whole (a test).

  Args:
    model: merged inside the caller's jitted function.
    image_features: of all images, in order; from `QwenVL.encode_images`.
    prompt_ids: right-padded.
    prompt_lengths: real tokens of the prompts.
    prompt_positions: M-RoPE positions.
    next_position: position of the first completion token.
    completions: right-padded.
    completion_lengths: tokens, the end token included.
    allowed_tokens: the sampler's mask.
    temperature: the sampler's.
    chunk: see `token_scores`.
    remat: see `QwenVL.language`.

  Returns:
    log-probs and entropies, fp32, 0 from `completion_lengths` on. The log-prob of a
    token that is not allowed is -inf.
  """
  batch, group, length = completions.shape
  prompt = prompt_ids.shape[1]
  prompt_mask = jnp.arange(prompt) < prompt_lengths[:, None]
  causal = jnp.tril(jnp.ones((prompt, prompt), bool)) & prompt_mask[:, None, None]
  hidden, prefix = model.language(
    model.embed(prompt_ids, image_features)[:, None],
    prompt_positions[:, :, None],
    causal,
    remat=remat,
  )
  # The first completion token is predicted by the last token of the prompt.
  last = jnp.take_along_axis(hidden[:, 0], prompt_lengths[:, None, None] - 1, axis=1)
  states = jnp.broadcast_to(last[:, :, None], (batch, group, 1, last.shape[-1]))
  if length > 1:
    prefix = jax.tree.map(lambda x: x[:, :, 0], prefix)
    steps = jnp.arange(length - 1)
    positions = jnp.broadcast_to(
      (next_position[:, None] + steps)[None, :, None], (3, batch, group, length - 1)
    )
    # The last token predicts nothing that is scored, so it is not run.
    rest, _ = model.language(
      model.embed(completions[..., :-1], None),
      positions,
      jnp.tril(jnp.ones((length - 1, length - 1), bool))[None, None],
      prefix,
      prompt_mask,
      remat=remat,
    )
    states = jnp.concatenate([states, rest], axis=2)
  logprobs, entropy = token_scores(
    model, states, completions, allowed_tokens, temperature=temperature, chunk=chunk
  )
  # Selected, not multiplied: padding may hold a token that is not allowed, and
  # -inf * 0 is NaN.
  real = jnp.arange(length) < completion_lengths[..., None]
  return jnp.where(real, logprobs, 0.0), jnp.where(real, entropy, 0.0)
