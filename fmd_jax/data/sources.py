"""Sources of images, named by one string each.

testbed://?split=train&size=256&seed=0     scenes drawn on the fly, truth known
folder:///photos/holidays?limit=100        any pictures, searched recursively
"""

import dataclasses
from typing import Protocol, runtime_checkable

from fmd_jax.types import ImageExample


@dataclasses.dataclass(frozen=True)
class Skipped:
  """A file that could not be used, and why."""

  path: str
  reason: str


@runtime_checkable
class Source(Protocol):
  """A fixed sequence of images; several threads may ask for some at once.

  Attributes:
    name: the spec that opens it again.
    skipped: files that were found and could not be read; never silently dropped.
  """

  name: str
  skipped: list[Skipped]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> ImageExample: ...
