"""Uploaded images by content hash, the least recently used leaving first."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable


class ImageStore:
  """Keeps up to `capacity` bytes of images. Threads may share it."""

  def __init__(self, capacity: int):
    self._capacity, self._bytes = capacity, 0
    self._images: OrderedDict[str, bytes] = OrderedDict()
    self._lock = threading.Lock()

  def put(self, sha256: str, data: bytes) -> None:
    """Stores an image.

    Raises:
      ValueError: the hash is not that of the bytes, or they exceed the capacity.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
      raise ValueError(f"image {sha256[:12]}… arrived with the hash {found[:12]}…")
    if len(data) > self._capacity:
      raise ValueError(
        f"image {sha256[:12]}… has {len(data)} bytes; the store holds {self._capacity}"
      )
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
