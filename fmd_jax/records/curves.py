"""The measurements as TensorBoard event files, one folder a method.

`tensorboard --logdir WORKDIR/tensorboard` shows them; TensorFlow is not needed.
"""

import struct
import sys
import time
import types
import uuid
from collections.abc import Mapping

from etils import epath

from fmd_jax.records.files import is_remote, write_atomic

FOLDER = "tensorboard"


def _tensorboardx() -> tuple[types.ModuleType, types.ModuleType]:
  """Its protocol buffers and its checksums."""
  # The package takes torch with it where torch is installed: seconds, and memory
  # that a trainer has better use for.
  blocked = "torch" not in sys.modules
  if blocked:
    sys.modules["torch"] = None
  try:
    from tensorboardX import record_writer
    from tensorboardX.proto import event_pb2
  finally:
    if blocked:
      del sys.modules["torch"]
  return event_pb2, record_writer


class Curves:
  """Writes the event file of one attempt at one method.

  Args:
    workdir: of the run.
    method: a folder of its own, so that TensorBoard lays methods over each other.
    resume_step: what earlier attempts wrote of this step and later is hidden.
  """

  def __init__(self, workdir: epath.PathLike, method: str, resume_step: int = 0):
    self._pb, self._checksums = _tensorboardx()
    folder = epath.Path(workdir) / FOLDER / method
    folder.mkdir(parents=True, exist_ok=True)
    if resume_step == 0:  # afresh
      for path in folder.glob("events.out.tfevents.*"):
        path.unlink()
    # TensorBoard reads the files of a folder in the order of their names.
    name = f"events.out.tfevents.{int(time.time()):010d}.{uuid.uuid4().hex[:8]}"
    self._path, self._written = folder / name, b""
    self._append(self._pb.Event(wall_time=time.time(), file_version="brain.Event:2"))
    if resume_step:
      start = self._pb.SessionLog(status=self._pb.SessionLog.START)
      event = self._pb.Event(wall_time=time.time(), step=resume_step)
      event.session_log.CopyFrom(start)
      self._append(event)

  def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
    """Adds one step's scalars; a missing one leaves a gap."""
    event = self._pb.Event(wall_time=time.time(), step=step)
    for tag, value in values.items():
      if value is not None:
        event.summary.value.add(tag=tag, simple_value=value)
    self._append(event)

  def _append(self, event) -> None:
    """One record: its length and its bytes, each with a checksum."""
    content, masked = event.SerializeToString(), self._checksums.masked_crc32c
    length = struct.pack("<Q", len(content))
    record = length + struct.pack("<I", masked(length))
    record += content + struct.pack("<I", masked(content))
    if is_remote(self._path):  # as measurements.jsonl: the whole file again
      self._written += record
      write_atomic(self._path, self._written)
    else:
      with self._path.open("ab") as file:
        file.write(record)
