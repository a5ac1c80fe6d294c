"""AdamW with warm-up and a global-norm clip: one optimiser for every recipe."""

from typing import Any

import jax
import optax

# Decaying a norm's scale pulls it to 0, not to the identity; a bias has no size that
# decay should fight.
_NOT_DECAYED = ("norm", "bias", "ln_q")


def learning_rate_schedule(
  peak: float, *, warmup_steps: int, decay_steps: int = 0, end_scale: float = 0.0
) -> optax.Schedule:
  """Linear warm-up, then constant, or a cosine to `end_scale`·`peak`.

  Args:
    peak: the learning rate after the warm-up.
    warmup_steps: update n (from 0) has (n + 1)/warmup_steps of the peak: the first
      one is not wasted on a rate of 0.
    decay_steps: updates from the end of the warm-up to the end of the cosine; 0 stays
      at the peak.
    end_scale: what is left of the peak after the cosine.
  """
  after = (
    optax.cosine_decay_schedule(peak, decay_steps, end_scale)
    if decay_steps
    else optax.constant_schedule(peak)
  )
  if not warmup_steps:
    return after
  first = peak / warmup_steps
  warmup = optax.linear_schedule(first, peak, max(warmup_steps - 1, 1))
  return optax.join_schedules([warmup, after], [warmup_steps])


def decay_mask(params: Any) -> Any:
  """True for each leaf that weight decay applies to, judged by its path."""

  def decayed(path: tuple, _: Any) -> bool:
    name = jax.tree_util.keystr(path).lower()
    return not any(part in name for part in _NOT_DECAYED)

  return jax.tree_util.tree_map_with_path(decayed, params)


def make_optimizer(
  learning_rate: float | optax.Schedule,
  *,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  max_grad_norm: float,
) -> optax.GradientTransformation:
  """AdamW after a clip of the gradient's global norm.

  Args:
    learning_rate: a number, or `learning_rate_schedule(...)`.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, times the learning rate; norms and biases are spared.
    max_grad_norm: the gradient is scaled down to this norm; 0 leaves it alone.
  """
  steps = [optax.clip_by_global_norm(max_grad_norm)] if max_grad_norm else []
  steps.append(
    optax.adamw(
      learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask
    )
  )
  return optax.chain(*steps)
