"""The memory: one bank of embeddings per image, one of prefixes for the data set."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fmd_jax.rewards.diversity import prefix
from fmd_jax.rewards.rows import check


class Banks:
  """What valid, wrongly answered questions (V = 1 and C = 0) left behind.

  A step is scored against the banks as they stood before it, then appended; every
  host must append the same rows in the same order.

  Attributes:
    prefix_length: L of eq. 4.
    counts: how often each prefix is in the global bank.
  """

  def __init__(self, prefix_length: int):
    self.prefix_length = prefix_length
    self.counts: collections.Counter[str] = collections.Counter()
    self._images: dict[str, list[np.ndarray]] = {}

  def embeddings(self, image_id: str) -> np.ndarray:
    """[N, E] float32 of the image's bank; [0, 0] when it is empty."""
    vectors = self._images.get(image_id)
    return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

  def append(self, rows: Iterable[tuple], embeddings: Mapping[str, np.ndarray]) -> None:
    """Adds the failures of a step.

    Args:
      rows: the rows of a step, in (image, response, slot) order.
      embeddings: question -> [E]; empty when the semantic term is off.
    """
    for row in check(rows):
      if not row.failure:
        continue
      self.counts[prefix(row.question, self.prefix_length)] += 1
      if embeddings:
        vector = np.asarray(embeddings[row.question], np.float32)
        self._images.setdefault(row.image_id, []).append(vector)

  def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Everything, for a checkpoint.

    Returns:
      Arrays: {"embeddings": [N, E] float32}, or {} while there are none (orbax
      refuses arrays of size 0). And what goes to JSON: the length of each image's
      bank, in the order of the rows, the prefix counts, the prefix length.
    """
    vectors = [v for bank in self._images.values() for v in bank]
    arrays = {"embeddings": np.stack(vectors)} if vectors else {}
    # Pairs, not an object: the order says whose rows are whose.
    sizes = [[image_id, len(bank)] for image_id, bank in self._images.items()]
    counts = dict(self.counts)
    meta = {"images": sizes, "counts": counts, "prefix_length": self.prefix_length}
    return arrays, meta

  @classmethod
  def from_state(
    cls, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
  ) -> "Banks":
    """The banks that `state` described."""
    banks = cls(meta["prefix_length"])
    banks.counts.update(meta["counts"])
    start = 0
    for image_id, size in meta["images"]:
      rows = np.asarray(arrays["embeddings"][start : start + size], np.float32)
      banks._images[image_id] = list(rows)
      start += size
    return banks
