"""Sources of images, named by one string each.

testbed://?split=train&size=256&seed=0        scenes drawn on the fly, truth known
folder:///photos/holidays?limit=100           any pictures, searched recursively
jsonl:///photos/list.jsonl                    a line each: {"image": PATH, "id": NAME}
hf:///data/coco?split=train&image=image       a folder of Hugging Face datasets
tfds://coco/2017?split=train&limit=1000&seed=0&data_dir=/data/tfds
                                              prepared by `tfds build`, array_record
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


NAMED = 100


def describe(source: Source) -> dict:
  """What a manifest says of a source: how many images, and which were left out.

  Of more than `NAMED` that were left out, the first ones are named.
  """
  named = [f"{skipped.path}: {skipped.reason}" for skipped in source.skipped]
  return {
    "source": source.name,
    "images": len(source),
    "skipped": len(named),
    "skipped_named": named[:NAMED],
  }
