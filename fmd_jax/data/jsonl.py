"""jsonl://: a list of pictures, one JSON object a line."""

import json
import pathlib
from typing import NamedTuple

from fmd_jax.data.options import parse_options
from fmd_jax.data.pictures import OPTIONS, Pictures, Raw
from fmd_jax.data.sources import Skipped


class Line(NamedTuple):
  """One line's picture: where it is, and what it is called."""

  number: int
  path: pathlib.Path
  name: str


def open_jsonl(location: str, query: str) -> Pictures[Line]:
  """The pictures that a file lists, in its order.

  A line is `{"image": "path/of/a.jpg", "id": "anything"}`: the path is the picture's,
  taken from the folder of the file unless absolute; without an id the path is the name.
  Other keys are ignored. Options, beside those of all pictures: `image` and `id`, where
  the keys have other names.
  """
  options = parse_options(query, OPTIONS | {"image": "image", "id": "id"})
  file = pathlib.Path(location)
  if not location or not file.is_file():
    raise FileNotFoundError(f"there is no file {location!r}")
  lines, skipped = _lines(file, options["image"], options["id"])
  name = f"jsonl://{location}" + (f"?{query}" if query else "")
  return Pictures(name, lines, _read, _label, options, skipped)


def _read(line: Line) -> Raw:
  return Raw(line.name, line.path.read_bytes())


def _label(line: Line) -> str:
  return f"line {line.number}: {line.path}"


def _lines(file: pathlib.Path, image: str, id_: str):
  lines, skipped, seen = [], [], {}
  for number, text in enumerate(file.read_text("utf-8").splitlines(), 1):
    if not text.strip():
      continue
    try:
      path, name = _parse(text, image, id_)
      if seen.setdefault(name, number) != number:
        raise ValueError(f"line {seen[name]} is called {name!r} too")
    except ValueError as error:
      skipped.append(Skipped(f"line {number}", str(error)))
      continue
    lines.append(Line(number, file.parent / path, name))
  return lines, skipped


def _parse(text: str, image: str, id_: str) -> tuple[str, str]:
  try:
    row = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f"not JSON: {error}") from None
  if not isinstance(row, dict):
    raise ValueError(f"not a JSON object: {text[:60]}")
  if not isinstance(row.get(image), str):
    keys = ", ".join(map(repr, row)) or "no key"
    raise ValueError(f"no path under {image!r}; it has {keys}: say image=KEY")
  return row[image], str(row.get(id_, row[image]))
