"""Questions to primitives, kept in a file as they come: what was paid for stays.

`taxonomy/annotations.jsonl` of each workdir has one object a line: annotator, prompt,
image (sha256), image_id, question, primitives or null, error.
"""

import hashlib
import json
import os
from collections.abc import Sequence

import pandas as pd
from etils import epath
from tqdm import tqdm

from fmd_jax import prompts
from fmd_jax.inference import Generator, identity
from fmd_jax.records.files import is_remote, write_atomic
from fmd_jax.taxonomy import asking

FILE = "annotations.jsonl"
_BATCH = 256  # requests between two writes


def annotate(
  rows: pd.DataFrame, annotator: Generator, *, max_tokens: int, retries: int
) -> pd.DataFrame:
  """Asks the annotator about every question it has not answered yet.

  A question that an earlier run or another of the workdirs has had answered, by the
  same annotator and prompt about the same picture, is not asked again. One that failed
  is.

  Args:
    rows: workdir, image_id, question; distinct.
    annotator: whom to ask.
    max_tokens: longest reply.
    retries: of a reply outside the grammar.

  Returns:
    `rows` and: primitives (a list, None when the annotator failed), error.
  """
  pictures = _Pictures()
  by = {"annotator": identity(annotator), "prompt": prompts.version("annotator")}
  known = {}
  for workdir in rows["workdir"].unique():
    for entry in _read(epath.Path(workdir) / "taxonomy" / FILE):
      if entry["primitives"] and by.items() <= entry.items():
        known[entry["image"], entry["question"]] = entry
  digests = [pictures.digest(w, i) for w, i in zip(rows["workdir"], rows["image_id"])]
  keys = list(zip(digests, rows["question"]))
  # In the order of the rows, and never two that would get the same answer.
  first = {key: at for at, key in reversed(list(enumerate(keys))) if key not in known}
  todo = sorted(first.values())
  bar = tqdm(total=len(rows), initial=len(rows) - len(todo), desc="annotate")
  for start in range(0, len(todo), _BATCH):
    part = [(at, *rows.iloc[at]) for at in todo[start : start + _BATCH]]
    asked = [(pictures.read(w, image_id), text) for _, w, image_id, text in part]
    outcomes = asking.annotate(annotator, asked, max_tokens=max_tokens, retries=retries)
    entries = [
      by
      | {
        "image": digests[at],
        "image_id": image_id,
        "question": text,
        "primitives": outcome.value,
        "error": outcome.error,
      }
      for (at, _, image_id, text), outcome in zip(part, outcomes)
    ]
    for workdir in dict.fromkeys(w for _, w, _, _ in part):
      own = [entry for entry, row in zip(entries, part) if row[1] == workdir]
      _append(epath.Path(workdir) / "taxonomy" / FILE, own)
    known |= {(entry["image"], entry["question"]): entry for entry in entries}
    bar.update(len(part))
  bar.close()
  out = rows.copy()
  out["primitives"] = [known[key]["primitives"] for key in keys]
  out["error"] = [known[key]["error"] for key in keys]
  return out


class _Pictures:
  """Image files and their digests; the last file is kept, rows come by image."""

  def __init__(self):
    self._digests: dict[tuple[str, str], str] = {}
    self._last: tuple[tuple[str, str], bytes] = (("", ""), b"")

  def read(self, workdir: str, image_id: str) -> bytes:
    key = (workdir, image_id)
    if self._last[0] != key:
      path = epath.Path(workdir) / "images" / f"{image_id}.png"
      self._last = (key, path.read_bytes())
    return self._last[1]

  def digest(self, workdir: str, image_id: str) -> str:
    key = (workdir, image_id)
    if key not in self._digests:
      content = self.read(workdir, image_id)
      self._digests[key] = hashlib.sha256(content).hexdigest()[:16]
    return self._digests[key]


def _read(path: epath.Path) -> list[dict]:
  entries = []
  for line in path.read_text().splitlines() if path.is_file() else ():
    try:
      entries.append(json.loads(line))
    except json.JSONDecodeError:  # the run was killed while it wrote this line
      continue
  return entries


def _append(path: epath.Path, entries: Sequence[dict]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
  if is_remote(path):  # there nothing can be appended: the whole file again
    old = path.read_bytes() if path.is_file() else b""
    write_atomic(path, old + text.encode())
    return
  # A line that a killed run left half-written must not swallow the next one.
  if path.is_file() and path.stat().length:
    with path.open("rb") as file:
      file.seek(-1, os.SEEK_END)
      text = text if file.read() == b"\n" else "\n" + text
  with path.open("ab") as file:
    file.write(text.encode())
