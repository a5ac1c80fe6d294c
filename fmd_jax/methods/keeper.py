"""What a training keeps, so that it goes on as if it had never stopped."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from fmd_jax import records, rewards
from fmd_jax.checkpoint import Checkpoints, MismatchError
from fmd_jax.hosts import HostError, Stopped
from fmd_jax.inference import InferenceError
from fmd_jax.methods.asking import Asking
from fmd_jax.methods.run import Run
from fmd_jax.update import TrainState

_FLYING = "flying."


class Kept(NamedTuple):
  """Where a training goes on.

  Attributes:
    step: the next one. It is the cursor of the data and of the random keys too.
    state: before that step.
    banks: likewise.
    flying: see `Asking.flying`.
  """

  step: int
  state: TrainState
  banks: rewards.Banks
  flying: dict[str, np.ndarray]


class Keeper:
  """The checkpoints of one training; as a context, it waits for the last at its end.

  The frozen and the reference parameters are the checkpoint folder's that training
  started from, so they are not kept: `Run.identity` names them.
  """

  def __init__(self, run: Run, name: str):
    self._run = run
    folder = run.workdir / "checkpoints" / name
    self._checkpoints = Checkpoints(folder, run.config.checkpoint.keep)

  def __enter__(self) -> "Keeper":
    return self

  def __exit__(self, *_) -> None:
    self._checkpoints.close()

  def restore(self, state: TrainState) -> Kept:
    """From the newest whole checkpoint, or the start with the state that is given."""
    banks = rewards.Banks(self._run.config.reward.prefix_length)
    if self._checkpoints.latest() is None:
      return Kept(0, state, banks, {})
    saved = self._checkpoints.restore(moving(state), accept=self._accept)
    logging.info("going on from the checkpoint of step %d", saved.step)
    kept = saved.state
    if self._run.agent.mesh.size == 1:
      # On no device in particular, as the first state: else the update of a resumed run
      # is another program, compiled once more.
      kept = jax.tree.map(lambda x: jnp.array(np.asarray(x)), kept)
    state = state._replace(**kept)
    banks = rewards.Banks.from_state(saved.arrays, saved.meta["banks"])
    flying = {
      name.removeprefix(_FLYING): value
      for name, value in saved.arrays.items()
      if name.startswith(_FLYING)
    }
    return Kept(saved.step, state, banks, flying)

  def after(
    self, step: int, state: TrainState, banks: rewards.Banks, asking: Asking
  ) -> None:
    """Keeps what is there after a step, if it is time to."""
    config = self._run.config
    if (step + 1) % config.checkpoint.every == 0 or step + 1 == config.steps:
      self._save(step + 1, state, banks, asking)

  @contextlib.contextmanager
  def before(
    self, step: int, state: TrainState, banks: rewards.Banks, asking: Asking
  ) -> Iterator[None]:
    """Within it a step has changed nothing yet: if it ends here, all is kept."""
    try:
      yield
    except (Exception, Stopped) as error:
      # Of several processes all are here only if they agreed on it.
      agreed = isinstance(error, (Stopped, HostError, InferenceError))
      if jax.process_count() == 1 or agreed:
        if self._checkpoints.latest() != step:
          self._save(step, state, banks, asking)
        self._checkpoints.wait()
        logging.warning("a checkpoint of step %d is there to go on from", step)
      raise

  def _save(self, step, state, banks, asking) -> None:
    arrays, meta = banks.state()
    arrays |= {_FLYING + k: v for k, v in asking.flying(step).items()}
    self._checkpoints.save(
      step, moving(state), arrays, {"banks": meta, "run": self._run.identity}
    )

  def _accept(self, meta: dict) -> None:
    other = records.differences(meta["run"], self._run.identity, self._run.may_differ)
    if other:
      raise MismatchError(
        f"the checkpoints in {self._run.workdir} are of another run: {other}. Choose "
        "another --workdir, or delete them to start again."
      )


def moving(state: TrainState) -> dict:
  """What an update changes."""
  return {name: getattr(state, name) for name in ("step", "params", "opt_state")}
