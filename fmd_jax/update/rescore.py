"""The log-probs of a batch under the policy that is about to be updated.

Axes: see `fmd_jax.update`.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from fmd_jax.models import scoring
from fmd_jax.models.axes import Array
from fmd_jax.rl import losses
from fmd_jax.update.batch import TrainBatch


def make_rescore_fn(
  graphdef: nnx.GraphDef, *, temperature: float, allowed_tokens: np.ndarray
) -> Callable[[Any, TrainBatch], TrainBatch]:
  """Makes the scorer for a batch that an older policy sampled.

  Args:
    graphdef: from `nnx.split(model)`.
    temperature: the sampler's.
    allowed_tokens: bool [V], the sampler's.

  Returns:
    f(params, batch) -> the batch with its `old_logprobs` computed anew and, as its
    `token_weights`, what the older policy makes of a token: `losses.stale_weights`.
    The parameters are `update.policy_params` before the update.
  """
  allowed_tokens = np.asarray(allowed_tokens, bool)

  @jax.jit
  def score(params: Any, batch: TrainBatch) -> tuple[Array, Array]:
    model = nnx.merge(graphdef, *params)
    features = batch.image_features
    if features is None:
      features = model.encode_images(batch.pixel_values, batch.plan)
    old, _ = scoring.completion_logprobs(
      model,
      features,
      *batch.prompt,
      batch.completions,
      batch.lengths,
      allowed_tokens,
      temperature=temperature,
    )
    return old, losses.stale_weights(old, batch.old_logprobs)

  def rescore(params: Any, batch: TrainBatch) -> TrainBatch:
    old, weights = score(params, batch)
    return batch._replace(old_logprobs=old, token_weights=weights)

  return rescore
