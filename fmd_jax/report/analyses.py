"""The tables and figures that `launch.taxonomy` left in `analysis/`, as they are."""

import base64
import csv
import io
import json
from typing import Any, NamedTuple

from etils import epath

from fmd_jax.report.reading import Run

_ROWS = 40  # of a table; the file has them all


class Part(NamedTuple):
  """One table with its figures.

  Attributes:
    title, what: what it shows; the paper's table or figure that it is.
    note: why there is no table.
    figures: (caption, address) of each.
    head, rows: of the table, its first rows; more: how many others there are.
    file: name of the whole table.
  """

  title: str
  what: str
  note: str
  figures: list[tuple[str, str]]
  head: list[str]
  rows: list[list[str]]
  more: int
  file: str


def parts(run: Run) -> list[Part]:
  """In the order of `analysis/index.json`; nothing where that is absent."""
  folder = run.folder / "analysis"
  index = folder / "index.json"
  entries = json.loads(index.read_text()) if index.is_file() else []
  return [_part(folder, entry) for entry in entries]


def _part(folder: epath.Path, entry: dict[str, Any]) -> Part:
  figures = [
    (caption, _address(path))
    for caption, name in entry["figures"].items()
    if (path := _own(folder, name)) is not None
  ]
  head, rows = [], []
  path = _own(folder, entry["csv"] or "")
  if path is not None:
    text = io.StringIO(path.read_bytes().decode(), newline="")
    head, *rows = list(csv.reader(text)) or [[]]
  return Part(
    title=entry["title"],
    what=entry["what"],
    note=entry.get("note", ""),
    figures=figures,
    head=head,
    rows=[[_number(cell) for cell in row] for row in rows[:_ROWS]],
    more=max(0, len(rows) - _ROWS),
    file=f"analysis/{path.name}" if path is not None else "",
  )


def _own(folder: epath.Path, name: str) -> epath.Path | None:
  """A file of the folder, and no other that a crafted index may name."""
  path = folder / name
  return path if name == path.name and path.is_file() else None


def _address(path: epath.Path) -> str:
  # As a picture an SVG runs no script and loads nothing.
  content = base64.b64encode(path.read_bytes()).decode()
  return f"data:image/svg+xml;base64,{content}"


def _number(cell: str) -> str:
  """Four digits of a fraction; anything else as it stands."""
  try:
    return f"{float(cell):.4g}" if "." in cell else cell
  except ValueError:
    return cell
