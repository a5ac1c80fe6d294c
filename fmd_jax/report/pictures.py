"""Pictures for the page: inside it while they are few, beside it when many."""

import base64
import io
import pathlib
import urllib.parse
from collections.abc import Iterable

from absl import logging
from etils import epath
from PIL import Image
from tqdm import tqdm

INLINE_SIDE, BESIDE_SIDE = 320, 640  # pixels; nothing on the page is shown larger
INLINE_BYTES = 8_000_000  # of all pictures; more would make the page slow to open
FOLDER = "images"  # beside the page


def picture(folder: epath.Path, image_id: str) -> str:
  """The picture as a `data:` address, small enough for a card; "" when absent."""
  found = _small(folder, image_id, INLINE_SIDE)
  return "" if found is None else _address(found)


def place(
  folder: epath.Path, image_ids: Iterable[str], target: epath.Path
) -> list[str]:
  """Makes the pictures of a list small, and says where each is.

  Args:
    folder: the workdir.
    image_ids: distinct ids.
    target: of the page; pictures that are too many to be inside are written to its
      folder `images`, and those already there are kept.

  Returns:
    For each id, in order: a `data:` address, a path relative to the page, or "" for a
    picture that is absent.
  """
  image_ids = list(image_ids)
  inside, total = [], 0
  for image_id in image_ids:
    found = _small(folder, image_id, INLINE_SIDE)
    inside.append("" if found is None else _address(found))
    total += len(inside[-1])
    if total > INLINE_BYTES:
      break
  else:
    return inside
  (target / FOLDER).mkdir(parents=True, exist_ok=True)
  bar = tqdm(image_ids, desc="pictures", unit="picture")
  return [_beside(folder, image_id, target) for image_id in bar]


def source(folder: epath.Path, image_id: str) -> epath.Path | None:
  """The file of a picture in the workdir; None when there is none."""
  path = folder / "images" / f"{image_id}.png"
  # An id is a file name; anything else comes from a file somebody made.
  ours = image_id and pathlib.PurePath(image_id).name == image_id
  return path if ours and "\0" not in image_id and path.is_file() else None


def _beside(folder: epath.Path, image_id: str, target: epath.Path) -> str:
  path = source(folder, image_id)
  if path is None:
    return ""
  made = target / FOLDER / f"{image_id}.jpg"
  if not made.is_file() or made.stat().mtime < path.stat().mtime:
    content = _small(folder, image_id, BESIDE_SIDE)
    if content is None:
      return ""
    made.write_bytes(content)
  # An id may hold what means something in an address: "#", "?", "%".
  return f"{FOLDER}/{urllib.parse.quote(made.name)}"


def _small(folder: epath.Path, image_id: str, side: int) -> bytes | None:
  """A JPEG, no side longer than `side` pixels; None when absent or broken."""
  path = source(folder, image_id)
  if path is None:
    return None
  try:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
      small = image.convert("RGB")
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    logging.warning("%s is not shown: %s", path, error)
    return None
  small.thumbnail((side, side))
  buffer = io.BytesIO()
  # A picture of few pixels is shown enlarged: every one of them counts.
  few = max(small.size) <= 128
  small.save(buffer, "JPEG", quality=92 if few else 85, subsampling=0 if few else 2)
  return buffer.getvalue()


def _address(content: bytes) -> str:
  return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
