"""Scenes: what is in a picture, exactly.

A scene is 112 x 112 pixels with 2 to 6 objects. Each object has a shape, a colour, a
size and a fill pattern; an arrow also has a direction, and most other large objects
carry a letter.
"""

import dataclasses
import json
import random

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "arrow")
SIZES = ("small", "large")
PATTERNS = ("solid", "striped", "dotted", "outlined")
# Straight strokes only, and no A: in a question it would be an article.
LETTERS = ("H", "L", "T", "V", "X", "Z")
DIRECTIONS = ("up", "right", "down", "left")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
VALUES = {"color": COLORS, "shape": SHAPES, "size": SIZES, "pattern": PATTERNS}

SIDE = 112  # pixels
CELL = 28  # pixels: one visual token at patch 14, merge 2
RADIUS = {"small": 10, "large": 17}  # pixels
_LETTER_SHARE = 0.85


@dataclasses.dataclass(frozen=True)
class Object:
  """One object; `x` and `y` are its centre in pixels from the top left."""

  shape: str
  color: str
  size: str
  pattern: str
  x: float
  y: float
  letter: str | None = None
  direction: str | None = None

  @property
  def cell(self) -> int:
    """Index of the visual token, row by row, that holds the centre."""
    return int(self.y // CELL) * (SIDE // CELL) + int(self.x // CELL)


@dataclasses.dataclass(frozen=True)
class Scene:
  """Objects in drawing order; `noise_seed` fixes every pixel of the picture."""

  objects: tuple[Object, ...]
  background: int
  noise_seed: int


def sample_scene(rng: random.Random) -> Scene:
  """Draws a scene: 2-6 objects, at most one centre per cell.

  Their discs don't touch; corners of squares and triangles may, in 4 % of scenes.
  """
  while True:
    count = rng.randint(2, 6)
    objects: list[Object] = []
    for _ in range(count):
      item = _place(rng, objects)
      if item is None:
        break
      objects.append(item)
    if len(objects) == count:
      return Scene(tuple(objects), rng.randint(215, 240), rng.getrandbits(31))


def _place(rng: random.Random, others: list[Object]) -> Object | None:
  shape, size = rng.choice(SHAPES), rng.choice(SIZES)
  radius = RADIUS[size]
  lettered = shape != "arrow" and size == "large" and rng.random() < _LETTER_SHARE
  item = Object(
    shape=shape,
    color=rng.choice(COLORS),
    size=size,
    pattern=rng.choice(PATTERNS),
    x=0.0,
    y=0.0,
    letter=rng.choice(LETTERS) if lettered else None,
    direction=rng.choice(DIRECTIONS) if shape == "arrow" else None,
  )
  for _ in range(40):
    low, high = radius + 2, SIDE - radius - 2
    x, y = round(rng.uniform(low, high), 1), round(rng.uniform(low, high), 1)
    item = dataclasses.replace(item, x=x, y=y)
    if all(_apart(item, other) for other in others):
      return item
  return None


def _apart(a: Object, b: Object) -> bool:
  reach = RADIUS[a.size] + RADIUS[b.size] + 1
  return (a.x - b.x) ** 2 + (a.y - b.y) ** 2 > reach**2 and a.cell != b.cell


def scene_to_json(scene: Scene) -> str:
  """One line of JSON that `scene_from_json` reads back exactly."""
  return json.dumps(dataclasses.asdict(scene), separators=(",", ":"))


def scene_from_json(text: str) -> Scene:
  """Reads a scene.

  Raises:
    ValueError: the text is not a scene.
  """
  try:
    data = json.loads(text)
    objects = tuple(Object(**item) for item in data.pop("objects"))
    return Scene(objects=objects, **data)
  except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
    raise ValueError(f"not a scene: {text[:80]!r} ({error})") from error
