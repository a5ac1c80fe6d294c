"""A picture and its scene in one PNG file."""

import io

import numpy as np
from PIL import Image, PngImagePlugin

from fmd_jax.world.scenes import Scene, scene_from_json, scene_to_json

KEY = "fmd_scene"


def encode(image: np.ndarray, scene: Scene) -> bytes:
  """Encodes uint8 `[H, W, 3]` with the scene in the text chunk `fmd_scene`."""
  info = PngImagePlugin.PngInfo()
  info.add_text(KEY, scene_to_json(scene))
  buffer = io.BytesIO()
  # Level 1: noise doesn't compress, and these files are written by the thousand.
  Image.fromarray(image).save(buffer, "PNG", pnginfo=info, compress_level=1)
  return buffer.getvalue()


def scene_of(png: bytes) -> Scene | None:
  """Reads the scene back; None for a picture that carries none."""
  with Image.open(io.BytesIO(png)) as image:
    text = getattr(image, "text", {}).get(KEY)
  return None if text is None else scene_from_json(text)
