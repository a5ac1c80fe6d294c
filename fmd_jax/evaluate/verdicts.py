"""Verdicts kept part by part, so that a killed evaluation goes on where it was.

evaluations/verdicts/<judge>/part-000003.parquet: one row for each distinct (image,
question, answer). `<judge>` is a hash of the judge's identity, its prompt and its
limits: another judge's verdicts are never taken for this one's.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from etils import epath

from fmd_jax.evaluate.plan import Key
from fmd_jax.records.reader import read_parquet
from fmd_jax.records.writer import write_parquet
from fmd_jax.types import CRITERIA, Verdict

_KEY = ["image_id", "question", "answer"]
_BOOLEANS = [*CRITERIA, "correct"]
_COLUMNS = [*_KEY, *_BOOLEANS, "rationale", "model"]


class Verdicts:
  """The verdicts of one judge in one workdir.

  Args:
    workdir: of the run.
    judge: what its verdicts depend on, by name: plain JSON.
  """

  def __init__(self, workdir: epath.PathLike, judge: Mapping[str, Any]):
    text = json.dumps(dict(judge), sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    self._folder = epath.Path(workdir) / "evaluations" / "verdicts" / name
    self._found: dict[Key, Verdict] = {}
    self._parts = 0
    for path in sorted(self._folder.glob("part-*.parquet")):
      self._parts = int(path.stem.removeprefix("part-")) + 1
      rows = read_parquet(path)[_COLUMNS]
      for row in rows.itertuples(index=False, name=None):
        *flags, rationale, model = row[len(_KEY) :]
        values = {k: bool(v) for k, v in zip(_BOOLEANS, flags, strict=True)}
        self._found[row[: len(_KEY)]] = Verdict(
          "ok", **values, rationale=rationale, model=model
        )

  def __contains__(self, key: Key) -> bool:
    return key in self._found

  def __getitem__(self, key: Key) -> Verdict:
    return self._found[key]

  def add(self, keys: Sequence[Key], verdicts: Sequence[Verdict]) -> None:
    """Takes a part, and writes those that are verdicts.

    The unscored are known until the process ends: the next one asks again.
    """
    self._found |= dict(zip(keys, verdicts, strict=True))
    rows = [
      (*key, *(getattr(v, name) for name in _BOOLEANS), v.rationale, v.model)
      for key, v in zip(keys, verdicts)
      if v.status == "ok"
    ]
    if rows:
      path = self._folder / f"part-{self._parts:06d}.parquet"
      write_parquet(path, pd.DataFrame(rows, columns=_COLUMNS))
      self._parts += 1
