"""What supervised fine-tuning learns from: images, each with questions about it."""

import bisect
import dataclasses
import itertools
import operator
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fmd_jax.data.sources import Skipped
from fmd_jax.types import ImageExample

Item = tuple[ImageExample, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where questions come from, for the manifest of what was trained on them.

  Attributes:
    name: of the data set, or the spec of a corpus of our own.
    licence: as its publisher states it; "unstated" where none was found.
    revision: which version of it; a model's identity for failures of that model.
    repository: of the Hugging Face hub, where it is one; else "".
    noncommercial: whether the licence, or any statement of its publisher, forbids
      commercial use, or nothing allows it.
  """

  name: str
  licence: str
  revision: str
  repository: str = ""
  noncommercial: bool = False


@runtime_checkable
class Corpus(Protocol):
  """A fixed sequence of images with their questions; threads may share it.

  Item `i` is `(image, questions)`: all questions about that image, distinct, at least
  one, in the order of the source; no tags, no answer, no options to choose from.

  Attributes:
    name: the spec that opens it again.
    origins: one for each data set in it.
    skipped: what was found and could not be used, and why.
  """

  name: str
  origins: tuple[Origin, ...]
  skipped: list[Skipped]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Item: ...


class Joined:
  """Several corpora one after another."""

  def __init__(self, parts: Sequence[Corpus]):
    self._parts = list(parts)
    self._ends = list(itertools.accumulate(len(part) for part in parts))
    self.name = " + ".join(part.name for part in parts)
    self.origins = tuple(origin for part in parts for origin in part.origins)
    self.skipped = [skipped for part in parts for skipped in part.skipped]

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> Item:
    index = range(len(self))[operator.index(index)]
    part = bisect.bisect_right(self._ends, index)
    return self._parts[part][index - (self._ends[part - 1] if part else 0)]
