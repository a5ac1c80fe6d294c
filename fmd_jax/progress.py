"""How far a loop is: a bar on a terminal, plain lines in a file or a notebook."""

import sys
from typing import TextIO

from tqdm import tqdm

_SECONDS = 10.0  # between two plain lines
_PLAIN = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class _Lines:
  """A file to which tqdm's redrawn line is a new line each time."""

  def __init__(self, file: TextIO):
    self._file, self._last = file, ""

  def write(self, text: str) -> None:
    text = text.strip()
    # At its end tqdm draws once more what may be there already.
    if text and text != self._last:
      self._file.write(f"{text}\n")
      self._last = text

  def flush(self) -> None:
    self._file.flush()


class Progress(tqdm):
  """tqdm with all that it takes, and without control characters in a log.

  On a terminal it is one line, drawn again after each step. Elsewhere it is a line at
  the start, one at the end and one every ten seconds.
  """

  def __init__(self, *args, **options):
    file = options.pop("file", None) or sys.stderr
    if file.isatty():
      options["dynamic_ncols"] = True
    else:
      # One step at a time: else tqdm guesses how many steps ten seconds are.
      options |= {"mininterval": _SECONDS, "miniters": 1, "bar_format": _PLAIN}
      file = _Lines(file)
    super().__init__(*args, file=file, **options)
