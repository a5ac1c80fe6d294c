"""Files that are either whole or not there."""

import os
import uuid

import fsspec
from etils import epath

# What another process writes must be seen: other hosts' shards, a run that is watched.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def write_atomic(path: epath.PathLike, content: bytes) -> None:
  """Writes to a hidden temporary name beside `path`, then renames onto it."""
  path = epath.Path(path)
  if is_remote(path):  # an object is there once it is whole; a rename copies it
    path.write_bytes(content)
    return
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
