"""How a run is getting on, from the files in its workdir: also while it runs."""

import datetime
import json
import os
import shlex
import time
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import records

_RECENT = 20  # steps that rate and numbers are of
_QUIET = 120.0  # seconds without a step after which a run may have ended
# What a line has room for, in this order; all of them: measurements.jsonl.
_SHOWN = (
  "reward/mean",
  "rollout/fdr",
  "rollout/qvr",
  "rollout/unscored_rate",
  "grpo/kl",
)


class Progress(NamedTuple):
  """How far one method is.

  Attributes:
    method: its name.
    done: steps measured.
    steps: of the config.
    unseen: batches of unseen images that were asked about.
    evaluated: whether the independent judge is through with it.
  """

  method: str
  done: int
  steps: int
  unseen: int
  evaluated: bool


class Status(NamedTuple):
  """What a workdir tells about its run.

  Attributes:
    workdir: of the run.
    state: "finished", "running" or "quiet": nothing was written for long.
    quiet: seconds since something was written.
    methods: one each, in the order of the config.
    seconds: of a recent step of the method under way; None: not known yet.
    left: seconds that its steps will take; None: not known.
    numbers: means over its recent steps.
    failures: its latest rows that are valid and answered wrongly, newest first.
    again: the command that goes on with the run; "" when not known.
  """

  workdir: str
  state: str
  quiet: float
  methods: tuple[Progress, ...]
  seconds: float | None
  left: float | None
  numbers: dict[str, float]
  failures: tuple[dict[str, Any], ...]
  again: str


def read(workdir: os.PathLike | str, failures: int = 3) -> Status:
  """Reads how a run is getting on.

  Args:
    workdir: of the run, also on an object store.
    failures: how many of the latest to give.

  Raises:
    FileNotFoundError: it holds no run.
  """
  folder = epath.Path(workdir)
  if not (folder / "config.json").exists():
    raise FileNotFoundError(f"{workdir} holds no run: it has no config.json")
  config = json.loads((folder / "config.json").read_text())
  measured = records.read_measurements(folder)
  methods = tuple(
    Progress(
      method,
      int((measured["method"] == method).sum()),
      config["steps"],
      len(records.steps(folder, method, "heldout")),
      (folder / "evaluations" / f"{method}_heldout.parquet").exists(),
    )
    for method in config["methods"]
  )
  begun = [m for m in methods if m.done]
  now = begun[-1] if begun else None
  shards = _shards(folder, now.method) if now else []
  seconds = _step_seconds([when for _, when in shards])
  finished, last = _time(folder / "metrics.json"), _last_write(folder, now, shards)
  quiet = max(time.time() - last, 0.0)
  if finished and finished >= last - 1:  # a run that goes on writes after it
    state = "finished"
  else:
    state = "quiet" if quiet > max(_QUIET, 20 * (seconds or 0.0)) else "running"
  left = None if seconds is None else seconds * max(now.steps - now.done, 0)
  return Status(
    workdir=str(workdir),
    state=state,
    quiet=quiet,
    methods=methods,
    seconds=seconds,
    left=left,
    numbers=_numbers(measured, now.method) if now else {},
    failures=tuple(_failures([path for path, _ in shards], failures)),
    again=_command(folder),
  )


def text(status: Status) -> str:
  """The status for a terminal."""
  quiet = _clock(status.quiet)
  head = {
    "finished": "finished",
    "running": f"running, last sign of life {quiet} ago",
    "quiet": f"no sign of life for {quiet}: ended early, or in a long step",
  }[status.state]
  lines = [f"{status.workdir}: {head}"]
  for method in status.methods:
    percent = 100 * method.done / method.steps
    line = f"  {method.method}: step {method.done} of {method.steps} ({percent:.0f} %)"
    if method.unseen:
      line += f", {method.unseen} batches of unseen images"
    if method.evaluated:
      line += ", evaluated"
    lines.append(line)
  if status.seconds and status.state != "finished":
    now = [m for m in status.methods if m.done][-1]
    line = f"  {status.seconds:.2f} s a step"
    if status.left:
      line += f", about {_clock(status.left)} left for {now.method}"
    lines.append(line)
  if status.numbers:
    values = "  ".join(f"{key} {value:.3g}" for key, value in status.numbers.items())
    lines.append(f"  mean of the last steps: {values}")
  if status.failures:
    lines.append("latest failures, as the verifier judged:")
  for row in status.failures:
    lines.append(f"  {row['image_id']}: {said(row['question'])}")
    lines.append(f"    answer: {said(row['answer'])}")
    if row["rationale"]:  # its last line is about the answer
      lines.append(f"    verdict: {said(row['rationale'].strip().splitlines()[-1])}")
  if status.state == "quiet" and status.again:
    lines.append(
      f"If it isn't running any more, this goes on with it:\n  {status.again}"
    )
  if status.state == "finished":
    lines.append(f"Report: {os.path.join(status.workdir, 'report', 'index.html')}")
  return "\n".join(lines)


def _shards(folder: epath.Path, method: str) -> list[tuple[epath.Path, float]]:
  """The latest shards of a method with the times they were written, oldest first."""
  root = folder / "records" / method
  paths = sorted(root.glob("step-*.parquet")) if root.exists() else []
  hosts = len({p.name.partition("-host-")[2] for p in paths})
  return [(path, _time(path)) for path in paths[-(_RECENT + 1) * max(hosts, 1) :]]


def _step_seconds(written: list[float]) -> float | None:
  """The middle one of the recent steps: one may have waited for a compilation."""
  steps = np.diff(np.unique(written))
  return float(np.median(steps)) if len(steps) else None


def _last_write(folder: epath.Path, now: Progress | None, shards: list) -> float:
  """When something was last written that a run writes before its metrics."""
  names = ["config.json", records.measurements.FILE]
  if now:
    names.append(f"evaluations/{now.method}.parquet")
    # The folder itself has no time in an object store.
    shards = shards + _shards(folder, f"{now.method}_heldout")
  times = [_time(folder / name) for name in names]
  return max(times + [when for _, when in shards])


def _time(path: epath.Path) -> float:
  """When it was written; 0.0 when it is not there."""
  try:
    return float(path.stat().mtime)
  except OSError:
    return 0.0


def _numbers(measured: pd.DataFrame, method: str) -> dict[str, float]:
  rows = measured[measured["method"] == method].tail(_RECENT)
  values = {key: pd.to_numeric(rows[key]).mean() for key in _SHOWN if key in rows}
  return {key: float(value) for key, value in values.items() if pd.notna(value)}


def _failures(paths: list[epath.Path], count: int) -> list[dict[str, Any]]:
  """The latest failures, each (image, question) once."""
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for path in reversed(paths):
    rows = records.read_parquet(path)
    wrong = rows["valid"].eq(True) & rows["correct"].eq(False)
    for row in rows[wrong].to_dict("records"):
      found.setdefault((row["image_id"], row["question"]), row)
    if len(found) >= count:
      break
  return list(found.values())[:count]


def _command(folder: epath.Path) -> str:
  path = folder / "manifest.json"
  argv = json.loads(path.read_text())["argv"] if path.exists() else []
  if not argv or not argv[0].endswith("discover.py"):
    return ""
  return shlex.join(["python", "-m", "launch.discover", *argv[1:]])


def _clock(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))


def said(text: Any) -> str:
  """What a model said, as one short line that can't move the terminal's cursor."""
  flat = "".join(c if c.isprintable() else " " for c in str(text or "(nothing)"))
  return flat if len(flat) <= 200 else f"{flat[:200]} ..."
