"""Log-probs of given completions, the prompt of each image being run once.

Axes: B images · G responses per image · P prompt tokens · T completion tokens ·
D width · F width of a visual token · V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from fmd_jax.models.axes import EMBED, VOCAB, Array
from fmd_jax.models.qwen_vl import QwenVL
from fmd_jax.sharding import batch_shards, constrain

# fp32 logits of one chunk on one device: 64 MiB, but never fewer tokens than this: the
# head is read once for every chunk.
_CHUNK_LOGITS = 2**24
_CHUNK_TOKENS = 256
_FORBIDDEN = -1e30


def _logits(hidden, weight, axis, allowed_tokens, temperature) -> Float[Array, "c V"]:
  logits = jax.lax.dot_general(
    hidden.astype(weight.dtype),
    weight,
    (((1,), (axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  logits = constrain(logits, "...", VOCAB)
  # Finite, so that p * logit is 0 and not NaN where p is 0.
  return jnp.where(allowed_tokens, logits / temperature, _FORBIDDEN)


def _score(logits, tokens) -> tuple[Array, Array, Array]:
  """Log-prob of the token, entropy, and the logarithm of the sum of exponentials."""
  total = jax.nn.logsumexp(logits, -1)
  chosen = jnp.take_along_axis(logits, tokens[:, None], -1)[:, 0]
  mean = jnp.sum(jnp.exp(logits - total[:, None]) * logits, -1)
  return chosen - total, total - mean, total


def _chunks(x: Array, number: int) -> Array:
  """[n, ...] -> [number, size, ...], the last chunk padded; undone by `_whole`.

  Every chunk takes each `number`th row: where rows are split over devices, each chunk
  has a share of every device's.
  """
  padded = jnp.pad(x, [(0, -len(x) % number)] + [(0, 0)] * (x.ndim - 1))
  return jnp.swapaxes(padded.reshape(-1, number, *x.shape[1:]), 0, 1)


def _whole(x: Array, count: int) -> Array:
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _head(hidden, weight, tokens, allowed_tokens, axis, temperature, number):
  """Scores of n tokens, in `number` chunks; `axis` is the width's in the weight."""
  return _head_forward(
    hidden, weight, tokens, allowed_tokens, axis, temperature, number
  )[0]


def _head_forward(hidden, weight, tokens, allowed_tokens, axis, temperature, number):
  def chunk(part):
    logits = _logits(part[0], weight, axis, allowed_tokens, temperature)
    return logits, _score(logits, part[1])

  if number == 1:
    # All there is: kept rather than computed again.
    logits, scores = chunk((hidden, tokens))
  else:
    parts = (_chunks(hidden, number), _chunks(tokens, number))
    logits, scores = None, jax.lax.map(lambda part: chunk(part)[1], parts)
    scores = tuple(_whole(x, len(tokens)) for x in scores)
  _, entropy, total = scores
  saved = (hidden, weight, tokens, allowed_tokens, entropy, total, logits)
  return scores[:2], saved


def _head_backward(axis, temperature, number, saved, gradients):
  hidden, weight, tokens, allowed_tokens, entropy, total, logits = saved
  per_token = (hidden, tokens, *gradients, entropy, total)

  def chunk(logits, hidden, tokens, to_logprob, to_entropy, entropy, total):
    logprobs = logits - total[:, None]
    # d logprob = [token] - p; d entropy = -p (logprob + entropy).
    slope = to_entropy[:, None] * (logprobs + entropy[:, None]) + to_logprob[:, None]
    chosen = jnp.arange(logits.shape[-1]) == tokens[:, None]
    gradient = jnp.where(chosen, to_logprob[:, None], 0) - jnp.exp(logprobs) * slope
    # A forbidden token has p = 0 and so no gradient; where it is the chosen one,
    # `token_scores` has dropped the score. The products are in the weight's type.
    gradient = (gradient / temperature).astype(weight.dtype)
    product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    to_hidden = product(gradient, weight, (((1,), (1 - axis,)), ((), ())))
    rows = hidden.astype(weight.dtype)
    pair = (rows, gradient) if axis == 0 else (gradient, rows)
    to_weight = product(*pair, (((0,), (0,)), ((), ())))
    named = (EMBED, VOCAB) if axis == 0 else (VOCAB, EMBED)
    return to_hidden.astype(hidden.dtype), constrain(to_weight, *named)

  if number == 1:
    to_hidden, to_weight = chunk(logits, *per_token)
  else:

    def step(so_far, part):
      logits = _logits(part[0], weight, axis, allowed_tokens, temperature)
      to_hidden, to_weight = chunk(logits, *part)
      return so_far + to_weight, to_hidden

    parts = tuple(_chunks(x, number) for x in per_token)
    to_weight = jnp.zeros(weight.shape, jnp.float32)
    to_weight, to_hidden = jax.lax.scan(step, to_weight, parts)
    to_hidden = _whole(to_hidden, len(tokens))
  return to_hidden, to_weight.astype(weight.dtype), None, None


_head.defvjp(_head_forward, _head_backward)


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
  that logits of more than a chunk never exist. Both scores have a gradient; that of
  the weight is summed in fp32.

  Args:
    model: for its head.
    hidden: states that predict `tokens`.
    tokens: same leading shape.
    allowed_tokens: the rest has probability 0 (log-prob -inf).
    temperature: divides the logits; 0 (greedy) leaves them.
    chunk: tokens at a time; None: as many as 64 MiB of logits are, or 256, on each of
      the devices that the tokens are split over.
  """
  shape, count = tokens.shape, tokens.size
  allowed_tokens = jnp.asarray(allowed_tokens)
  if chunk is None:
    chunk = max(_CHUNK_TOKENS, _CHUNK_LOGITS // allowed_tokens.shape[0])
    chunk *= batch_shards()
  weight, axis = model.head()
  logprobs, entropy = _head(
    hidden.reshape(count, -1),
    weight,
    tokens.ravel(),
    allowed_tokens,
    axis,
    temperature or 1.0,
    -(-count // chunk),
  )
  # Where a forbidden token was chosen the difference of two constants is no log-prob.
  logprobs = jnp.where(allowed_tokens[tokens.ravel()], logprobs, -jnp.inf)
  return logprobs.reshape(shape), entropy.reshape(shape)


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
  remat: bool | str = True,
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
  hidden, prefix = model.language(
    model.embed(prompt_ids, image_features)[:, None],
    prompt_positions[:, :, None],
    None,  # causal: a prompt's padding comes after it
    last=prompt_lengths - 1,
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
      None,
      prefix,
      prompt_mask,
      remat=remat,
    )
    states = jnp.concatenate([states, rest], axis=2)
  logprobs, entropy = token_scores(
    model,
    states,
    completions,
    allowed_tokens,
    temperature=temperature,
    chunk=chunk,
  )
  # Selected, not multiplied: padding may hold a token that is not allowed, and
  # -inf * 0 is NaN.
  real = jnp.arange(length) < completion_lengths[..., None]
  return jnp.where(real, logprobs, 0.0), jnp.where(real, entropy, 0.0)
