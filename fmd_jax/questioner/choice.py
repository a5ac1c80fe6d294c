"""Tokens from logits: the mask, the temperature, the random numbers.

Axes: V vocabulary.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from fmd_jax.models.axes import Array


def masked_logits(
  logits: Float[Array, "... V"],
  allowed_tokens: Bool[Array, " V"],
  temperature: float,
  top_p: float = 1.0,
  top_k: int = 0,
) -> Float[Array, "... V"]:
  """The logits of the distribution that is sampled from, -inf where it is 0.

  Args:
    logits: [..., V] fp32.
    allowed_tokens: [V].
    temperature: 0 (greedy) leaves the scale alone.
    top_p: smallest set of tokens with this much probability; 1 keeps all.
    top_k: this many tokens, ties kept; 0 keeps all.
  """
  logits = jnp.where(allowed_tokens, logits, -jnp.inf)
  if temperature:
    logits = logits / temperature
  if top_k:
    kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    logits = jnp.where(logits >= kth, logits, -jnp.inf)
  if top_p < 1:
    ordered = jnp.flip(jnp.sort(logits, -1), -1)
    probs = jax.nn.softmax(ordered, -1)
    # What precedes a token decides, so that the most likely one always stays.
    kept = jnp.cumsum(probs, -1) - probs < top_p
    least = jnp.min(jnp.where(kept, ordered, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits >= least, logits, -jnp.inf)
  return logits


def gumbel(
  key: jax.Array, rows: Int[Array, "..."], vocabulary: int
) -> Float[Array, "... V"]:
  """`jax.random.gumbel(key, (n, vocabulary))[rows]` for any n, bit by bit.

  A row's numbers must not depend on which other rows are still being sampled, and those
  that are not should cost nothing. Threefry is written out (Salmon et al., 2011, 20
  rounds): jax.random cannot skip rows, and on a CPU it goes round by round through
  memory.

  Args:
    key: threefry's, JAX's default.
    rows: numbers of the rows; times V below 2^32.
    vocabulary: V.

  Raises:
    ValueError: another kind of key.
  """
  if str(jax.random.key_impl(key)) != "threefry2x32":
    raise ValueError(f"a threefry key is needed, not {jax.random.key_impl(key)}")
  one, two = jax.random.key_data(key)
  keys = (one, two, one ^ two ^ jnp.uint32(0x1BD11BDA))
  counter = rows.astype(jnp.uint32)[..., None] * jnp.uint32(vocabulary)
  counter += jnp.arange(vocabulary, dtype=jnp.uint32)
  a, b = jnp.broadcast_to(keys[0], counter.shape), counter + keys[1]
  for i in range(5):
    for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      a = a + b
      b = a ^ ((b << turn) | (b >> (32 - turn)))
    a = a + keys[(i + 1) % 3]
    b = b + keys[(i + 2) % 3] + jnp.uint32(i + 1)
  # 23 bits after the point make a number from 1 to 2; a uniform one is never 0.
  bits = ((a ^ b) >> 9) | jnp.uint32(0x3F800000)
  tiny = jnp.finfo(jnp.float32).tiny
  uniform = jax.lax.bitcast_convert_type(bits, jnp.float32) - 1
  uniform = jnp.maximum(tiny, uniform * (1 - tiny) + tiny)
  return -jnp.log(-jnp.log(uniform))


def choose(
  logits: Float[Array, "... V"], noise: Float[Array, "... V"] | None
) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
  """One token a row and its log-prob.

  Args:
    logits: from `masked_logits`.
    noise: from `gumbel`; None takes the likeliest token, the first of equals.
  """
  # The largest, then where it is: XLA's argmax computes the noise within its loop over
  # single numbers, which on a CPU takes a fifth of a small model's step.
  score = logits if noise is None else logits + noise
  size = logits.shape[-1]
  largest = score == score.max(-1, keepdims=True)
  tokens = jnp.min(jnp.where(largest, jnp.arange(size), size - 1), -1)
  chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
  return tokens, chosen - jax.nn.logsumexp(logits, -1)
