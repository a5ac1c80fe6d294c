"""A picture -> the pixels a Qwen-VL sees -> its patches; NumPy and Pillow only.

Bit for bit what transformers' `Qwen2VLImageProcessorPil` makes of the same PIL image
(tested, 5.23). Where that says nothing, or garbles, this is decided here:

- EXIF rotation is applied, as transformers' `load_image` does before its processor.
- 16-bit grey keeps its high byte, as Pillow does with 16-bit colour (its own grey
  conversion would clip all but the darkest 256 values to white).
- A picture of more than MAX_PIXELS is refused before it is decoded.
- Of a file with several frames the first counts.
"""

import dataclasses
import io
import math

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import Float, UInt8

MAX_ASPECT_RATIO = 200
MAX_PIXELS = 2**27  # 400 MB as RGB


@dataclasses.dataclass(frozen=True)
class ImageSettings:
  """How pixels become patches; areas in pixels, `mean` and `std` per channel."""

  patch_size: int
  merge_size: int
  temporal_patch_size: int
  min_pixels: int
  max_pixels: int
  resample: int
  rescale_factor: float
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Pixels:
  """A picture in the size that the model sees it in: uint8 [H, W, 3]."""

  values: UInt8[np.ndarray, "H W 3"]


# An encoded file, a picture of any mode, an array (see `to_rgb`), or one prepared.
Image = PIL.Image.Image | np.ndarray | bytes | Pixels


def smart_resize(
  height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
  """The size a Qwen-VL model sees an image in, as in Qwen2-VL's image processor.

  Args:
    height: of the image, in pixels.
    width: of the image, in pixels.
    factor: both sides become multiples of it (patch size · merge size).
    min_pixels: least area.
    max_pixels: greatest area.

  Returns:
    (height, width).

  Raises:
    ValueError: one side is more than 200 times the other.
  """
  if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
    raise ValueError(
      f"an image of {width}x{height}: one side is more than {MAX_ASPECT_RATIO} times "
      "the other"
    )
  # Python's round, half to even: 42/28 = 1.5 -> 2, but 70/28 = 2.5 -> 2.
  new_height = round(height / factor) * factor
  new_width = round(width / factor) * factor
  if new_height * new_width > max_pixels:
    shrink = math.sqrt((height * width) / max_pixels)
    new_height = max(factor, math.floor(height / shrink / factor) * factor)
    new_width = max(factor, math.floor(width / shrink / factor) * factor)
  elif new_height * new_width < min_pixels:
    grow = math.sqrt(min_pixels / (height * width))
    new_height = math.ceil(height * grow / factor) * factor
    new_width = math.ceil(width * grow / factor) * factor
  return new_height, new_width


def to_rgb(image: PIL.Image.Image | np.ndarray | bytes) -> PIL.Image.Image:
  """Any image as upright 8-bit RGB, transparency laid on white.

  Args:
    image: an encoded file, a PIL image, or an array [H, W], [H, W, 1|3|4] of uint8,
      uint16, or floats in [0, 1].

  Raises:
    ValueError: it is not an image, is cut short, or has more than MAX_PIXELS.
  """
  if isinstance(image, bytes | bytearray):
    image = _open(bytes(image))
  elif isinstance(image, np.ndarray):
    image = PIL.Image.fromarray(_to_uint8(image))
  _check_size(image)
  image = PIL.ImageOps.exif_transpose(image)
  if image.mode in ("F", "I") or image.mode.startswith("I;16"):
    image = PIL.Image.fromarray(_to_uint8(np.asarray(image)))
  if "A" in image.getbands() or image.info.get("transparency") is not None:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    image = PIL.Image.alpha_composite(white, image)
  return image.convert("RGB")


def _open(data: bytes) -> PIL.Image.Image:
  try:
    image = PIL.Image.open(io.BytesIO(data))
  except PIL.Image.DecompressionBombError:
    raise ValueError(f"an image has more than {MAX_PIXELS} pixels") from None
  except PIL.UnidentifiedImageError:
    raise ValueError("not a readable image: its format is unknown") from None
  except Exception as error:
    # Pillow's readers raise nearly anything on bad bytes.
    raise ValueError(f"not a readable image: {error}") from error
  _check_size(image)
  try:
    image.load()
  except Exception as error:
    raise ValueError(f"not a readable image: {error}") from error
  return image


def _check_size(image: PIL.Image.Image) -> None:
  if image.width * image.height > MAX_PIXELS:
    raise ValueError(
      f"an image of {image.width}x{image.height} has more than {MAX_PIXELS} pixels"
    )


def _to_uint8(array: np.ndarray) -> np.ndarray:
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
    raise ValueError(f"an image array must be [H, W] or [H, W, 1|3|4]: {array.shape}")
  if array.dtype == np.uint8:
    return array
  low, high = array.min(), array.max()
  if array.dtype.kind == "f" and low >= 0 and high <= 1:
    return np.round(array * 255).astype(np.uint8)
  # 16 bits in either byte order are 16-bit whatever they hold; wider integers
  # (Pillow's mode "I") only say so by their values.
  sixteen = array.dtype.kind == "u" and array.dtype.itemsize == 2
  if sixteen or (low >= 0 and 255 < high <= 65535):
    return (array.astype(np.int64) >> 8).astype(np.uint8)
  if low >= 0 and high <= 255:
    return array.astype(np.uint8)
  raise ValueError(f"image values {low} to {high} in {array.dtype}: no known range")


def resize(image: Image, settings: ImageSettings) -> Pixels:
  """The picture in the size that the model sees it in.

  Raises:
    ValueError: see `to_rgb` and `smart_resize`.
  """
  if isinstance(image, Pixels):
    return image
  image = to_rgb(image)
  factor = settings.patch_size * settings.merge_size
  height, width = smart_resize(
    image.height, image.width, factor, settings.min_pixels, settings.max_pixels
  )
  if (width, height) != image.size:
    image = image.resize((width, height), PIL.Image.Resampling(settings.resample))
  return Pixels(np.asarray(image))


def patches(
  pixels: Pixels, settings: ImageSettings
) -> tuple[Float[np.ndarray, "N patch"], tuple[int, int, int]]:
  """Normalised patches, rows in 2x2-block order, and the grid they come from.

  Returns:
    float32 [N, C·T·side·side], and N as patches along time, height and width.
  """
  side, merge = settings.patch_size, settings.merge_size
  height, width, _ = pixels.values.shape
  # [channel, value] -> normalised value: an 8-bit image knows only 256 of them. The
  # order of roundings (float64 product, float32 the rest) is transformers'.
  table = np.arange(256, dtype=np.float64) * settings.rescale_factor
  mean, std = (np.array(x, np.float32)[:, None] for x in (settings.mean, settings.std))
  table = (table.astype(np.float32) - mean) / std
  planes = np.stack([table[c][pixels.values[..., c]] for c in range(3)])
  rows, columns = height // side, width // side
  blocks = (rows // merge, merge, side, columns // merge, merge, side)
  cut = planes.reshape(3, *blocks)
  cut = cut.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
  frames = settings.temporal_patch_size
  cut = np.broadcast_to(cut, (*cut.shape[:5], frames, side, side))
  return cut.reshape(rows * columns, -1), (1, rows, columns)
