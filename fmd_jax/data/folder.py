"""folder://: any pictures below a folder."""

import concurrent.futures
import hashlib
import io
import operator
import os
import pathlib
import re

from PIL import Image

from fmd_jax import pixels
from fmd_jax.data.options import parse_options
from fmd_jax.data.sources import Skipped
from fmd_jax.types import ImageExample

MAX_PIXELS = 1024 * 1024


class Folder:
  """The readable pictures below a folder, ordered by path.

  Every file is decoded once when the folder is opened, so that a broken one is
  named before the run starts and never changes a batch in the middle of it.

  Options of the spec: `limit` (the first so many readable pictures), `max_pixels`
  (larger pictures are scaled down, 2^20 unless told; 0 keeps them as they are).
  """

  def __init__(self, location: str, query: str):
    options = parse_options(query, {"limit": None, "max_pixels": MAX_PIXELS})
    root = pathlib.Path(location)
    if not location or not root.is_dir():
      raise FileNotFoundError(f"there is no folder {location!r}")
    self._root, self._max_pixels = root, options["max_pixels"]
    self.name = f"folder://{location}" + (f"?{query}" if query else "")
    self.skipped: list[Skipped] = []
    self._paths = self._readable(_files(root), options["limit"])
    if not self._paths:
      tried = "; ".join(f"{s.path}: {s.reason}" for s in self.skipped[:3])
      raise ValueError(f"no picture in {location!r}" + (f" ({tried})" if tried else ""))

  def _readable(self, paths, limit):
    good = []
    # Blocks, so that `limit` pictures of a large folder do not cost all of it.
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(paths), 64):
        block = paths[start : start + 64]
        for path, reason in zip(block, pool.map(_why_unreadable, block), strict=True):
          if len(good) == limit:
            return good
          if reason:
            self.skipped.append(Skipped(str(path.relative_to(self._root)), reason))
          else:
            good.append(path)
    return good

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> ImageExample:
    path = self._paths[operator.index(index)]
    name = path.relative_to(self._root).as_posix()
    # The digest keeps a/b.png and a_b.png apart, whatever else the folder holds.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rpartition(".")[0] or name)
    image = _fit(pixels.to_rgb(path.read_bytes()), self._max_pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return ImageExample(f"{readable[-80:].strip('_')}-{digest}", buffer.getvalue())


def _why_unreadable(path: pathlib.Path) -> str:
  try:
    pixels.to_rgb(path.read_bytes())
  except (OSError, ValueError) as error:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
  return ""


def _files(root: pathlib.Path) -> list[pathlib.Path]:
  found = []
  for folder, folders, names in os.walk(root):
    folders[:] = [name for name in folders if not name.startswith(".")]
    found += [pathlib.Path(folder) / n for n in names if not n.startswith(".")]
  return sorted(found, key=lambda path: path.relative_to(root).parts)


def _fit(image: Image.Image, max_pixels: int) -> Image.Image:
  pixels = image.width * image.height
  if not max_pixels or pixels <= max_pixels:
    return image
  scale = (max_pixels / pixels) ** 0.5
  size = max(int(image.width * scale), 1), max(int(image.height * scale), 1)
  return image.resize(size, Image.Resampling.LANCZOS)
