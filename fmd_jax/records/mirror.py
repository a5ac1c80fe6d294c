"""Weights & Biases shows `measurements.jsonl` while it grows; optional."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator

from absl import logging
from etils import epath

from fmd_jax.records.measurements import read_rows

_SECONDS = 10.0
_INSTALL = "pip install wandb==0.31.0"


def check(project: str) -> None:
  """Refuses a project when wandb isn't there, before anything is started.

  Raises:
    ValueError: with the line to type.
  """
  if project:
    try:
      import wandb  # noqa: F401
    except ImportError as error:
      raise ValueError(
        f"config.watch.wandb is {project!r} and wandb is not installed: {_INSTALL}"
      ) from error


@contextlib.contextmanager
def wandb_mirror(workdir: epath.PathLike, project: str, run_id: str) -> Iterator[None]:
  """Sends the measurements of a run to Weights & Biases as long as the context lives.

  A thread reads the file, so that no method knows of it and no step waits for it. A
  run that goes on is one run there too; steps that are measured again are not sent
  again.

  Args:
    workdir: of the run.
    project: at Weights & Biases; "" sends nothing.
    run_id: of the manifest.

  Raises:
    RuntimeError: Weights & Biases refuses, for one because nobody is logged in.
  """
  if not project:
    yield
    return
  import wandb

  folder = epath.Path(workdir)
  try:
    there = wandb.init(
      project=project,
      id=run_id,
      name=folder.name,
      resume="allow",
      config=json.loads((folder / "config.json").read_text()),
      dir=os.fspath(folder),
    )
  except Exception as error:  # its errors are many, and of several modules
    raise RuntimeError(
      f"config.watch.wandb is {project!r}: {error}; `wandb login` first, or keep it on "
      "this machine by WANDB_MODE=offline"
    ) from error
  sent: dict[str, int] = {}

  def send() -> None:
    for row in read_rows(folder):
      method, step = row.pop("method"), row.pop("step")
      if method not in sent:
        there.define_metric(f"{method}/step")
        there.define_metric(f"{method}/*", step_metric=f"{method}/step")
        before = there.summary.get(f"{method}/step")
        sent[method] = -1 if before is None else int(before)
      if step > sent[method]:
        values = {f"{method}/{key}": v for key, v in row.items() if v is not None}
        there.log(values | {f"{method}/step": step})
        sent[method] = step

  done = threading.Event()

  def follow() -> None:
    while not done.wait(_SECONDS):
      try:
        send()
      except Exception as error:  # curves elsewhere are not worth the run
        logging.warning("Weights & Biases: %s; tried again in %g s", error, _SECONDS)

  thread = threading.Thread(target=follow, name="wandb", daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    with contextlib.suppress(Exception):
      send()
      there.finish()
