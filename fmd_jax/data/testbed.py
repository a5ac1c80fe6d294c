"""testbed://: scenes of the procedural world, drawn when asked for."""

import operator
import random

from fmd_jax.data.options import parse_options
from fmd_jax.data.sources import Skipped
from fmd_jax.types import ImageExample
from fmd_jax.world import drawing, png, scenes

SPLITS = ("train", "heldout")


class Testbed:
  """`size` scenes; a scene depends on seed, split and index only, never on size."""

  def __init__(self, location: str, query: str):
    options = parse_options(query, {"split": "train", "size": 256, "seed": 0})
    self._split, self._seed = options["split"], options["seed"]
    self._size = options["size"]
    if location:
      raise ValueError(f"the testbed has no place, yet {location!r} is named")
    if self._split not in SPLITS:
      raise ValueError(f"no split {self._split!r}; there are {', '.join(SPLITS)}")
    if not self._size:
      raise ValueError("a testbed of no scenes")
    self.name = f"testbed://?split={self._split}&size={self._size}&seed={self._seed}"
    self.skipped: list[Skipped] = []

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> ImageExample:
    index = range(self._size)[operator.index(index)]
    return draw(f"testbed-{self._split}-{self._seed}-{index:06d}")


def draw(image_id: str) -> ImageExample:
  """The picture of that name, which says all there is to say about it."""
  # Seeded by text: numbers added up would make neighbouring seeds share scenes.
  scene = scenes.sample_scene(random.Random(image_id))
  return ImageExample(image_id, png.encode(drawing.render(scene), scene))
