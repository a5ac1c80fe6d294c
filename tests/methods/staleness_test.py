"""One step off-policy: who asked what, and what is made of it."""

import jax
import numpy as np
import pytest

from fmd_jax import discover, records
from fmd_jax.methods import training
from tests.runs import played_config

STEPS = 4


@pytest.mark.slow
def test_the_next_batch_is_asked_before_the_update(tmp_path, monkeypatch):
  batches, make = [], training.make_rescore_fn

  def watched(*args, **kwargs):
    rescore = make(*args, **kwargs)

    def watch(params, batch):
      after = rescore(params, batch)
      batches.append(jax.device_get((batch.old_logprobs, after, batch.lengths)))
      return after

    return watch

  monkeypatch.setattr(training, "make_rescore_fn", watched)
  # Large, so that a step's policy differs from the one before it.
  changes = {"optimizer.learning_rate": 3e-3, "optimizer.warmup_steps": 1}
  config = played_config(
    methods=("grpo",), steps=STEPS, **{"rollout.staleness": 1}, **changes
  )
  discover.discover(config, tmp_path)
  numbers = records.read_measurements(tmp_path, "grpo")
  # Wrong: the sampler's log-probs for `old`, which are off from the second update on.
  assert numbers["grpo/ratio_max_dev"].max() <= 1e-4
  assert list(numbers["rollout/staleness"]) == [0, 1, 1, 1]
  rows = records.read(tmp_path, "grpo")
  assert list(rows.groupby("step")["questioner_step"].unique()) == [[0], [0], [1], [2]]
  off = []
  for sampled, after, lengths in batches:
    within = np.arange(sampled.shape[-1]) < lengths[..., None]
    ratio = np.exp(after.old_logprobs - sampled)[within]
    np.testing.assert_allclose(
      after.token_weights[within], np.minimum(ratio, 2.0), rtol=1e-5
    )
    off.append(np.abs(ratio - 1).max())
  # The first update has a rate of 0: the third batch is the first that is off.
  assert off[0] < 1e-4 and max(off[2:]) > 1e-2


def test_more_than_one_step_is_refused():
  with pytest.raises(ValueError, match="staleness is 2; it can be 0 or 1"):
    discover.check(played_config(**{"rollout.staleness": 2}))
