"""Uploaded images by content hash, the least recently used leaving first."""

import hashlib
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable

# Of one image. A photograph has 12 to 50 million; a file of a few kilobytes can claim
# to have thousands of millions.
MAX_PIXELS = 100_000_000
MAX_BYTES = 64 << 20  # of one image, encoded


def check(data: bytes) -> None:
  """Reads an image's header, and no pixels.

  Raises:
    ValueError: it is no image that Pillow reads, or has too many pixels.
  """
  from PIL import Image

  try:
    with warnings.catch_warnings():
      # Pillow's own limit is refused below.
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
        frames = getattr(opened, "n_frames", 1)
        opened.verify()
  except Image.DecompressionBombError as error:
    raise ValueError(f"the image has too many pixels: {error}") from error
  # Pillow raises what its many parsers raise.
  except Exception as error:
    raise ValueError(f"not an image: {error or repr(error)}") from error
  if width * height * frames > MAX_PIXELS:
    raise ValueError(
      f"the image has {width} x {height} x {frames} pixels; at most {MAX_PIXELS}"
    )


class ImageStore:
  """Keeps up to `capacity` bytes of images. Threads may share it."""

  def __init__(self, capacity: int):
    self._capacity, self._bytes = capacity, 0
    self._images: OrderedDict[str, bytes] = OrderedDict()
    self._lock = threading.Lock()

  @property
  def largest(self) -> int:
    """Bytes of the largest image that may come."""
    return min(self._capacity, MAX_BYTES)

  def size(self) -> tuple[int, int]:
    """How many images are here, and their bytes."""
    with self._lock:
      return len(self._images), self._bytes

  def put(self, sha256: str, data: bytes) -> None:
    """Stores an image.

    Raises:
      ValueError: the hash is not that of the bytes, they are too many, or no image.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
      raise ValueError(f"image {sha256[:12]}… arrived with the hash {found[:12]}…")
    if len(data) > self.largest:
      raise ValueError(
        f"image {sha256[:12]}… has {len(data)} bytes; the store takes {self.largest}"
      )
    check(data)
    with self._lock:
      if sha256 in self._images:
        self._images.move_to_end(sha256)
        return
      self._images[sha256] = data
      self._bytes += len(data)
      while self._bytes > self._capacity:
        _, old = self._images.popitem(last=False)
        self._bytes -= len(old)

  def get(self, wanted: Iterable[str]) -> tuple[dict[str, bytes], list[str]]:
    """The images that are here, by hash, and the hashes of those that are not."""
    found, missing = {}, []
    with self._lock:
      for sha256 in dict.fromkeys(wanted):
        if sha256 in self._images:
          self._images.move_to_end(sha256)
          found[sha256] = self._images[sha256]
        else:
          missing.append(sha256)
    return found, missing
