"""folder://: any pictures below a folder."""

import os
import pathlib

from fmd_jax.data.options import parse_options
from fmd_jax.data.pictures import OPTIONS, Pictures, Raw


def open_folder(location: str, query: str) -> Pictures[pathlib.Path]:
  """The pictures below a folder, by path; hidden files and folders are left alone."""
  options = parse_options(query, OPTIONS)
  root = pathlib.Path(location)
  if not location or not root.is_dir():
    raise FileNotFoundError(f"there is no folder {location!r}")

  def label(path: pathlib.Path) -> str:
    return path.relative_to(root).as_posix()

  def read(path: pathlib.Path) -> Raw:
    return Raw(label(path), path.read_bytes())

  name = f"folder://{location}" + (f"?{query}" if query else "")
  return Pictures(name, _files(root), read, label, options)


def _files(root: pathlib.Path) -> list[pathlib.Path]:
  found = []
  for folder, folders, names in os.walk(root):
    folders[:] = [name for name in folders if not name.startswith(".")]
    found += [pathlib.Path(folder) / n for n in names if not n.startswith(".")]
  return sorted(found, key=lambda path: path.relative_to(root).parts)
