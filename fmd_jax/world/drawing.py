"""Pixels of a scene: supersampled sprites from Pillow, composed in numpy."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from fmd_jax.world.scenes import DIRECTIONS, RADIUS, SIDE, Scene

_RGB = {
  "red": (214, 40, 40),
  "green": (38, 150, 70),
  "blue": (40, 90, 220),
  "yellow": (240, 200, 30),
  "purple": (140, 60, 190),
  "orange": (245, 130, 30),
}
_SUPER = 4  # sprites are drawn this many times larger, then averaged down
_NOISE = 4.0  # grey levels
# The light comes from the upper left. It also tells every patch where it is: with
# relative positions alone, attention over a plain background can't know.
_LIGHT = 24.0  # grey levels from edge to edge
_STROKES = {  # on a grid of x in -1..1, y in -1..1 (down)
  "H": ((-1, -1, -1, 1), (1, -1, 1, 1), (-1, 0, 1, 0)),
  "L": ((-1, -1, -1, 1), (-1, 1, 1, 1)),
  "T": ((-1, -1, 1, -1), (0, -1, 0, 1)),
  "V": ((-1, -1, 0, 1), (1, -1, 0, 1)),
  "X": ((-1, -1, 1, 1), (1, -1, -1, 1)),
  "Z": ((-1, -1, 1, -1), (1, -1, -1, 1), (-1, 1, 1, 1)),
}


def render(scene: Scene) -> np.ndarray:
  """Draws a scene: uint8 `[112, 112, 3]`, the same pixels for the same scene."""
  ramp = np.linspace(_LIGHT / 2, -_LIGHT / 2, SIDE, dtype=np.float32)
  image = np.full((SIDE, SIDE, 3), scene.background, np.float32)
  image[:, :, 0] += ramp[None, :]
  image[:, :, 2] += ramp[:, None]
  image[:, :, 1] += (ramp[None, :] + ramp[:, None]) / 2
  for item in scene.objects:
    layers = _sprite(item.shape, item.size, item.pattern, item.direction, item.letter)
    side = layers.shape[1]
    left = min(max(round(item.x - side / 2), 0), SIDE - side)
    top = min(max(round(item.y - side / 2), 0), SIDE - side)
    view = image[top : top + side, left : left + side]
    inks = ((250, 250, 250), _RGB[item.color], (255, 255, 255), (15, 15, 15))
    for alpha, ink in zip(layers, inks, strict=True):
      view += alpha[..., None] * (np.array(ink, np.float32) - view)
  noise = np.random.default_rng(scene.noise_seed).standard_normal((SIDE, SIDE, 1))
  return np.clip(image + noise.astype(np.float32) * _NOISE, 0, 255).astype(np.uint8)


def _outline(shape: str, radius: float, centre: float, direction: str | None):
  """Corners of a shape; None for the circle."""
  r, c = radius, centre
  if shape == "square":
    k = r * 0.86
    return [(c - k, c - k), (c + k, c - k), (c + k, c + k), (c - k, c + k)]
  if shape == "diamond":
    return [(c, c - r), (c + r * 0.8, c), (c, c + r), (c - r * 0.8, c)]
  if shape == "triangle":
    return [(c, c - r), (c + r, c + r * 0.8), (c - r, c + r * 0.8)]
  if shape == "star":
    radii = [r if i % 2 == 0 else r * 0.48 for i in range(10)]
    turns = [i * math.pi / 5 for i in range(10)]
    return [
      (c + k * math.sin(t), c - k * math.cos(t))
      for k, t in zip(radii, turns, strict=True)
    ]
  if shape == "arrow":
    half = [(0, -1), (0.85, -0.1), (0.36, -0.1), (0.36, 1)]
    points = half + [(-x, y) for x, y in reversed(half[1:])]
    for _ in range(DIRECTIONS.index(direction)):
      points = [(-y, x) for x, y in points]
    return [(c + x * r, c + y * r) for x, y in points]
  return None


@functools.cache
def _sprite(shape, size, pattern, direction, letter) -> np.ndarray:
  """Alpha layers `[4, d, d]`: white below, colour, letter plate, letter."""
  radius = RADIUS[size]
  side = 2 * radius + 3
  big = side * _SUPER
  centre = big / 2
  corners = _outline(shape, radius * _SUPER, centre, direction)
  box = [centre - radius * _SUPER] * 2 + [centre + radius * _SUPER] * 2

  def drawn(paint) -> np.ndarray:
    layer = Image.new("L", (big, big))
    paint(ImageDraw.Draw(layer))
    return np.asarray(layer) / 255.0

  width = int((2.6 if pattern == "outlined" else 1.2) * _SUPER)
  if corners is None:
    full = drawn(lambda d: d.ellipse(box, fill=255))
    edge = drawn(lambda d: d.ellipse(box, outline=255, width=width))
  else:
    full = drawn(lambda d: d.polygon(corners, fill=255))
    edge = drawn(
      lambda d: d.line(corners + corners[:2], fill=255, width=width, joint="curve")
    )
  edge = edge * full
  yy, xx = np.mgrid[0:big, 0:big] / _SUPER
  if pattern == "solid":
    fill = full
  elif pattern == "striped":
    fill = np.maximum(full * (((xx + yy) % 6) < 3), edge)
  elif pattern == "dotted":
    holes = ((xx + 0.5) % 5 - 2.5) ** 2 + ((yy + 0.5) % 5 - 2.5) ** 2 < 2.6
    fill = np.maximum(full * (1 - holes), edge)
  else:
    fill = edge
  # Stripes and dots show white; an outlined shape shows the background.
  white = full * (1 - fill) if pattern in ("striped", "dotted") else 0 * full
  plate, ink = 0 * full, 0 * full
  if letter is not None:
    middle = centre + (radius * 0.25 * _SUPER if shape == "triangle" else 0)
    k, h = 8.4 * _SUPER, 6.2 * _SUPER
    frame = [centre - k, middle - k, centre + k, middle + k]
    plate = drawn(lambda d: d.rounded_rectangle(frame, radius=2 * _SUPER, fill=255))

    def strokes(d):
      for x0, y0, x1, y1 in _STROKES[letter]:
        ends = [centre + x0 * h * 0.8, middle + y0 * h]
        ends += [centre + x1 * h * 0.8, middle + y1 * h]
        d.line(ends, fill=255, width=int(3.2 * _SUPER))

    ink = drawn(strokes)
  layers = np.stack([white, fill, plate, ink])
  layers = layers.reshape(4, side, _SUPER, side, _SUPER).mean((2, 4))
  return layers.astype(np.float32)
