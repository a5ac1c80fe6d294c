"""annotations.jsonl: what happened, a line each, on disk before it is acknowledged."""

import fcntl
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]


class Journal:
  """An append-only file that one process holds.

  Attributes:
    path: of the file.
    events: what was there when it was opened.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens or begins it.

    Raises:
      RuntimeError: another process has it.
      ValueError: a line before the last cannot be read.
    """
    self.path = pathlib.Path(path)
    self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
      try:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError:
        raise RuntimeError(
          f"{self.path} is in use: this study is served by another process"
        ) from None
      content = self.path.read_bytes()
      self.events = [event for _, event in _events(self.path, content)]
      # A line without its end was cut by a kill, and so never acknowledged.
      self._size = content.rfind(b"\n") + 1
      os.ftruncate(self._file, self._size)
    except BaseException:
      self.close()
      raise

  def append(self, event: Event) -> None:
    """Returns once the event is on disk; after an error nothing of it is there."""
    line = json.dumps(event).encode() + b"\n"
    try:
      left = memoryview(line)
      while left:
        left = left[os.write(self._file, left) :]
      os.fsync(self._file)
    except OSError:
      os.ftruncate(self._file, self._size)
      raise
    self._size += len(line)

  def close(self) -> None:
    if self._file >= 0:
      os.close(self._file)
      self._file = -1


def _events(path: pathlib.Path, content: bytes) -> Iterator[tuple[int, Event]]:
  for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
    try:
      event = json.loads(line)
      event["event"], event["rater"]
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{path} line {number} cannot be read: {line[:80]!r}") from error
    yield number, event


def latest(path: pathlib.Path) -> list[tuple[int, Event]]:
  """The label that counts of each rater and item, the last, with its line number."""
  found = {
    (event["rater"], event["item"]): (number, event)
    for number, event in _events(path, path.read_bytes())
    if event["event"] == "labelled"
  }
  return list(found.values())
