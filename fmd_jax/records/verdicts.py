"""Verdicts of an evaluation, kept as they come in: a run that goes on pays once."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from fmd_jax.records.files import write_atomic
from fmd_jax.types import Verdict


class KeptVerdicts:
  """The verdicts of one table: a file for each part of it, named by what was judged.

  Args:
    folder: theirs alone.
    judge: all that a verdict depends on beside the rows: model, prompt, limits.
  """

  def __init__(self, folder: epath.PathLike, judge: Mapping[str, Any]):
    self._folder, self._judge = epath.Path(folder), dict(judge)
    self._used: set[str] = set()

  def part(
    self, rows: Sequence[Any], ask: Callable[[list[int]], list[Verdict]]
  ) -> list[Verdict]:
    """The verdicts on some rows, asked for where none is kept.

    Args:
      rows: what is judged, as JSON can hold it.
      ask: gives the verdicts on the rows of these indices. An unscored one is asked for
        again the next time.
    """
    text = json.dumps([self._judge, list(rows)], sort_keys=True)
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    path = self._folder / name
    self._used.add(name)
    verdicts: list[Verdict | None] = [None] * len(rows)
    if path.exists():
      verdicts = [Verdict(**fields) for fields in json.loads(path.read_text())]
    missing = [i for i, v in enumerate(verdicts) if v is None or v.status == "unscored"]
    if missing:
      for i, verdict in zip(missing, ask(missing), strict=True):
        verdicts[i] = verdict
      kept = json.dumps([dataclasses.asdict(v) for v in verdicts])
      write_atomic(path, kept.encode())
    return verdicts

  def drop_others(self) -> None:
    """Removes the parts of tables that are no more."""
    for path in self._folder.iterdir() if self._folder.exists() else ():
      if path.name not in self._used:
        path.unlink(missing_ok=True)
