"""Files that are either whole or not there."""

import os
import uuid

from etils import epath


def write_atomic(path: epath.PathLike, content: bytes) -> None:
  """Writes to a hidden temporary name beside `path`, then renames onto it."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
  try:
    temporary.write_bytes(content)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def is_remote(path: epath.PathLike) -> bool:
  """Whether the path is an object store's, where nothing can be appended."""
  return "://" in os.fspath(path)
