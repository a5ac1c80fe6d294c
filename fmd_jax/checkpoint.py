"""Checkpoints: the whole state of a run under one step number, by orbax."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from fmd_jax import hosts

# How long the processes of a run wait for each other when files are written.
_TIMEOUT_SECONDS = 600


class MismatchError(ValueError):
  """A checkpoint of another run, model or optimiser; the message is one line."""


class Restored(NamedTuple):
  """What a checkpoint held.

  Attributes:
    step: the step it was saved under.
    state: the pytree of device arrays, with the template's structure and shardings.
    arrays: name -> numpy array, as saved.
    meta: what was saved as JSON.
  """

  step: int
  state: Any
  arrays: dict[str, np.ndarray]
  meta: Any


class Checkpoints:
  """The checkpoints of one run: a folder, one sub-folder a step, the newest kept.

  A step is written under a temporary name and then renamed, so that a run killed at
  any moment leaves whole checkpoints only. All processes of a run call the same
  methods; what fails on one of them is raised on all.
  """

  def __init__(self, folder: str | os.PathLike, keep: int = 2):
    """Opens or makes the folder, local or gs://; `keep` checkpoints stay."""
    # orbax announces every save and restore in a dozen lines; a run has its own log.
    logging.getLogger("absl").addFilter(_not_from_orbax)
    handlers = {
      "state": ocp.StandardCheckpointHandler(),
      "arrays": ocp.StandardCheckpointHandler(),
      "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      create=True,
      async_options=ocp.AsyncOptions(timeout_secs=_TIMEOUT_SECONDS),
    )
    self._folder = epath.Path(folder)
    if "://" not in os.fspath(folder):
      self._folder = self._folder.absolute()
    self._manager = ocp.CheckpointManager(
      self._folder, options=options, item_handlers=handlers
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Waits as `wait` does, and lets go."""
    self._manager.close()

  def wait(self) -> None:
    """Returns when everything saved is whole on disk."""
    self._manager.wait_until_finished()

  def latest(self) -> int | None:
    """The newest step, None before the first checkpoint."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: Any, arrays: Mapping[str, np.ndarray], meta: Any
  ) -> None:
    """Writes one checkpoint and drops those that are no longer kept.

    Returns when the arrays are copied; the files are written meanwhile. What goes
    wrong with them is raised by the next `save` or by `close`.

    Args:
      step: what it is called; a step that exists already is replaced.
      state: pytree of device arrays and typed random keys.
      arrays: host arrays, equal on all processes, whose shapes may differ from step to
        step (the banks).
      meta: anything JSON can hold, equal on all processes.

    Raises:
      ValueError: an array is empty; orbax cannot store it.
    """
    named = _named(state)

    def prepare() -> None:
      self._manager.check_for_errors()
      for name, leaf in [*named.items(), *arrays.items()]:
        if np.size(leaf) == 0:
          raise ValueError(f"{name} is empty: leave it out of the checkpoint")
      json.dumps(meta)

    # Before orbax: within it the others would wait for a process that has failed.
    hosts.together(prepare)
    if step in self._manager.all_steps():
      self._manager.wait_until_finished()
      self._manager.delete(step)
    # orbax refuses an item without arrays; on an empty bank this one keeps it alive.
    host = {"_": np.zeros(1, np.int8), **{k: np.asarray(v) for k, v in arrays.items()}}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(named),
        arrays=ocp.args.StandardSave(host),
        meta=ocp.args.JsonSave({"value": meta, "sums": _sums(named, host)}),
      ),
      force=True,
    )

  def restore(
    self,
    template: Any,
    step: int | None = None,
    accept: Callable[[Any], None] = lambda meta: None,
  ) -> Restored:
    """Reads a checkpoint back: without `step`, the newest that is whole.

    Args:
      template: a pytree like the saved state, of arrays or jax.ShapeDtypeStruct;
        its shardings decide which bytes this host reads.
      step: which one.
      accept: sees what was saved as JSON before the state is read; what it raises ends
        the attempt.

    Raises:
      FileNotFoundError: there is no such checkpoint, or none is whole.
      MismatchError: the checkpoint is of another model or optimiser.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if step is not None:
      steps = [s for s in steps if s == step]
    if not steps:
      which = "checkpoint" if step is None else f"checkpoint of step {step}"
      raise FileNotFoundError(f"there is no {which} in {self._folder}")
    wanted = {k: _abstract(v) for k, v in _named(template).items()}
    found: list[Restored] = []
    for at in steps:
      try:
        hosts.together(
          lambda at=at: found.append(self._read(at, template, wanted, accept))
        )
        # Another process may have failed at a newer one that this one could read.
        return found[-1]
      except MismatchError:
        raise
      # orbax has no class of its own for what it can't read.
      except Exception as error:
        absl.logging.warning(
          "the checkpoint of step %d in %s is damaged and not used: %s: %s",
          at,
          self._folder,
          type(error).__name__,
          " ".join(str(error).split())[:200],
        )
    raise FileNotFoundError(
      f"no checkpoint in {self._folder} is whole (steps {steps} are there): put one "
      "back, or delete the folder to start again"
    )

  def _read(self, step, template, wanted, accept) -> Restored:
    read = lambda **items: self._manager.restore(  # noqa: E731
      step, args=ocp.args.Composite(**items)
    )
    saved = read(meta=ocp.args.JsonRestore()).meta
    accept(saved["value"])
    self._refuse_another_model(step, wanted)
    found = read(
      state=ocp.args.StandardRestore(wanted), arrays=ocp.args.StandardRestore()
    )
    sums = _sums(found.state, found.arrays)
    other = [name for name, value in saved["sums"].items() if sums.get(name) != value]
    if other:
      raise ValueError(f"{other[0]} has another checksum than when it was saved")
    leaves, treedef = jax.tree.flatten(template)
    values = [
      jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
      if _is_key(leaf)
      else value
      for leaf, value in zip(leaves, map(found.state.get, wanted), strict=True)
    ]
    arrays = {k: np.asarray(v) for k, v in found.arrays.items() if k != "_"}
    return Restored(step, jax.tree.unflatten(treedef, values), arrays, saved["value"])

  def _refuse_another_model(self, step, wanted):
    saved = self._manager.item_metadata(step)["state"]
    names = sorted(set(saved) ^ set(wanted))
    if names:
      where = "only in the checkpoint" if names[0] in saved else "not in the checkpoint"
      raise MismatchError(
        f"the checkpoint of step {step} in {self._folder} is of another model or "
        f"optimiser: {names[0]} is {where} ({len(names)} such differences)"
      )
    for name, leaf in wanted.items():
      here = (tuple(leaf.shape), np.dtype(leaf.dtype))
      there = (tuple(saved[name].shape), np.dtype(saved[name].dtype))
      if here != there:
        raise MismatchError(
          f"the checkpoint of step {step} in {self._folder} is of another model: "
          f"{name} is {there[1]}{list(there[0])} there, {here[1]}{list(here[0])} here"
        )


def _named(tree: Any) -> dict[str, Any]:
  """Leaves by their path: independent of the containers, readable by a person."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  named = {
    jax.tree_util.keystr(path, simple=True, separator="."): _raw(leaf)
    for path, leaf in leaves
  }
  if len(named) != len(leaves):
    raise ValueError("two leaves of the state have the same path")
  return named


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
  # A typed key has no bytes of its own to write.
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
  return jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


@jax.jit
def _state_sums(named: dict[str, jax.Array]) -> dict[str, jax.Array]:
  def one(x: jax.Array) -> jax.Array:
    if x.dtype.itemsize > 1 and x.dtype != jnp.bool_:
      x = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return jnp.sum(x.astype(jnp.uint32), dtype=jnp.uint32)

  return jax.tree.map(one, named)


def _sums(named: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
  """Of the bits of each array, modulo 2^32: orbax does not notice a flipped one.

  A sum is the same however an array lies on devices, and is made where it lies.
  """
  sums = jax.device_get(_state_sums(named))
  for name, array in arrays.items():
    sums[f"arrays.{name}"] = np.frombuffer(array.tobytes(), np.uint8).sum(
      dtype=np.uint32
    )
  return {name: int(value) for name, value in sums.items()}


def _not_from_orbax(record: logging.LogRecord) -> bool:
  return record.levelno >= logging.ERROR or "/orbax/" not in record.pathname
