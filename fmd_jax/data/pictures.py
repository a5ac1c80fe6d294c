"""Pictures of any source: the readable ones, named, and as the models see them."""

import concurrent.futures
import hashlib
import io
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from fmd_jax import pixels
from fmd_jax.data.sources import Skipped
from fmd_jax.types import ImageExample

# Options that every source of pictures has: how many, drawn by which seed (without, the
# first ones), and the size above which they are scaled down (0: never).
OPTIONS: dict[str, int | None] = {
  "limit": None,
  "seed": None,
  "max_pixels": 1024 * 1024,
}
_BLOCK = 64
_SILENT = 1000

Key = TypeVar("Key")


class Raw(NamedTuple):
  """An encoded picture, and the name that its id is made of."""

  name: str
  content: bytes


class Pictures(Generic[Key]):
  """The readable pictures among some candidates.

  Every picture that is used is decoded once here, so that a broken one is named before
  the run starts and never changes a batch in the middle of it. Which ones are used
  depends on the candidates and options only, never on the host.

  An `image_id` is the picture's name, made filename-safe, and a digest of name and
  content: two pictures never share one, whatever train and held-out images are called.
  """

  def __init__(
    self,
    name: str,
    candidates: Sequence[Key],
    read: Callable[[Key], Raw],
    label: Callable[[Key], str],
    options: dict,
    skipped: Iterable[Skipped] = (),
  ):
    """Reads and decodes.

    Args:
      name: the spec.
      candidates: what `read` and `label` take, in the order of the source.
      read: gives the picture; raises OSError or ValueError for one that it can't.
      label: what a broken one is called in messages.
      options: with the keys of `OPTIONS`.
      skipped: what the source itself has left out.

    Raises:
      ValueError: none is readable; it names the first few.
    """
    self.name = name
    self._read, self._label = read, label
    self._max_pixels = options["max_pixels"]
    self.skipped: list[Skipped] = list(skipped)
    self._keys = self._readable(
      _in_order(candidates, options["seed"]), options["limit"]
    )
    if not self._keys:
      tried = "; ".join(f"{s.path}: {s.reason}" for s in self.skipped[:3])
      raise ValueError("it holds no picture" + (f" ({tried})" if tried else ""))

  def _readable(self, keys: Sequence[Key], limit: int | None) -> list[Key]:
    good: list[Key] = []
    wanted = len(keys) if limit is None else min(limit, len(keys))
    bar = tqdm(total=wanted, desc=self.name, unit="image", disable=wanted < _SILENT)
    # Blocks, so that `limit` pictures of a large source do not cost all of it.
    with bar, concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(keys), _BLOCK):
        block = keys[start : start + _BLOCK]
        for key, reason in zip(block, pool.map(self._fault, block), strict=True):
          if len(good) == wanted:
            return good
          if reason:
            self.skipped.append(Skipped(self._label(key), reason))
          else:
            good.append(key)
            bar.update()
    return good

  def _fault(self, key: Key) -> str:
    """Why a picture can't be used; "" when it can."""
    try:
      pixels.to_rgb(self._read(key).content)
    except (OSError, ValueError) as error:
      return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ""

  def __len__(self) -> int:
    return len(self._keys)

  def key(self, index: int) -> Key:
    """The candidate that a picture is."""
    return self._keys[operator.index(index)]

  def __getitem__(self, index: int) -> ImageExample:
    raw = self._read(self.key(index))
    image = _fit(pixels.to_rgb(raw.content), self._max_pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return ImageExample(_image_id(raw), buffer.getvalue())


def _in_order(candidates: Sequence[Key], seed: int | None) -> Sequence[Key]:
  if seed is None:
    return candidates
  order = np.random.default_rng(seed).permutation(len(candidates))
  return [candidates[i] for i in order.tolist()]


def _image_id(raw: Raw) -> str:
  # The digest keeps a/b.png and a_b.png apart, and two folders' cat.png.
  digest = hashlib.sha256(raw.name.encode() + b"\0" + raw.content).hexdigest()[:8]
  readable = re.sub(r"[^A-Za-z0-9_-]+", "_", raw.name.rpartition(".")[0] or raw.name)
  return f"{readable[-80:].strip('_')}-{digest}"


def _fit(image: Image.Image, max_pixels: int) -> Image.Image:
  area = image.width * image.height
  if not max_pixels or area <= max_pixels:
    return image
  scale = (max_pixels / area) ** 0.5
  size = max(int(image.width * scale), 1), max(int(image.height * scale), 1)
  return image.resize(size, Image.Resampling.LANCZOS)
