"""Checkpoints: the whole state of a run under one step number, by orbax."""

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp


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
  any moment leaves whole checkpoints only.
  """

  def __init__(self, folder: str | os.PathLike, keep: int = 2):
    """Opens or makes the folder; `keep` is how many checkpoints stay."""
    handlers = {
      "state": ocp.StandardCheckpointHandler(),
      "arrays": ocp.StandardCheckpointHandler(),
      "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, create=True, enable_async_checkpointing=False
    )
    # orbax announces every save and restore in a dozen lines; a run has its own log.
    logging.getLogger("absl").addFilter(_not_from_orbax)
    self._folder = pathlib.Path(folder).absolute()
    self._manager = ocp.CheckpointManager(
      self._folder, options=options, item_handlers=handlers
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    self._manager.close()

  def latest(self) -> int | None:
    """The newest step, None before the first checkpoint."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: Any, arrays: Mapping[str, np.ndarray], meta: Any
  ) -> None:
    """Writes one checkpoint and drops those that are no longer kept.

    Args:
      step: what it is called; a step that exists already is replaced.
      state: pytree of device arrays and typed random keys.
      arrays: host arrays whose shapes may differ from step to step (the banks).
      meta: anything JSON can hold.

    Raises:
      ValueError: an array is empty; orbax cannot store it.
    """
    named = _named(state)
    for name, leaf in [*named.items(), *arrays.items()]:
      if np.size(leaf) == 0:
        raise ValueError(f"{name} is empty: leave it out of the checkpoint")
    if step in self._manager.all_steps():
      self._manager.delete(step)
    # orbax refuses an item without arrays; on an empty bank this one keeps it alive.
    host = {"_": np.zeros(1, np.int8), **{k: np.asarray(v) for k, v in arrays.items()}}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(named),
        arrays=ocp.args.StandardSave(host),
        meta=ocp.args.JsonSave({"value": meta}),
      ),
      force=True,
    )

  def restore(self, template: Any, step: int | None = None) -> Restored:
    """Reads a checkpoint back.

    Args:
      template: a pytree like the saved state, of arrays or jax.ShapeDtypeStruct;
        its shardings decide which bytes this host reads.
      step: which one; the latest unless told.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint is of another model or optimiser.
    """
    step = self.latest() if step is None else step
    if step is None or step not in self._manager.all_steps():
      which = "checkpoint" if step is None else f"checkpoint of step {step}"
      raise FileNotFoundError(f"there is no {which} in {self._folder}")
    wanted = {k: _abstract(v) for k, v in _named(template).items()}
    self._refuse_another_model(step, wanted)
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(wanted),
        arrays=ocp.args.StandardRestore(),
        meta=ocp.args.JsonRestore(),
      ),
    )
    leaves, treedef = jax.tree.flatten(template)
    values = [
      jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
      if _is_key(leaf)
      else value
      for leaf, value in zip(leaves, map(found.state.get, wanted), strict=True)
    ]
    arrays = {k: np.asarray(v) for k, v in found.arrays.items() if k != "_"}
    state = jax.tree.unflatten(treedef, values)
    return Restored(step, state, arrays, found.meta["value"])

  def _refuse_another_model(self, step, wanted):
    saved = self._manager.item_metadata(step)["state"]
    names = sorted(set(saved) ^ set(wanted))
    if names:
      where = "only in the checkpoint" if names[0] in saved else "not in the checkpoint"
      raise ValueError(
        f"the checkpoint of step {step} in {self._folder} is of another model or "
        f"optimiser: {names[0]} is {where} ({len(names)} such differences)"
      )
    for name, leaf in wanted.items():
      here = (tuple(leaf.shape), np.dtype(leaf.dtype))
      there = (tuple(saved[name].shape), np.dtype(saved[name].dtype))
      if here != there:
        raise ValueError(
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
  return jax.random.key_data(leaf) if _is_key(leaf) else jax.numpy.asarray(leaf)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _not_from_orbax(record: logging.LogRecord) -> bool:
  return record.levelno >= logging.ERROR or "/orbax/" not in record.pathname
