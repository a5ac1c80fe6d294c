"""The folder of a study: what annotators may see, and what they may not.

share/    items.jsonl, images/, items.csv, label_studio/: all that may be given away
private/  key.csv (which slot an item is, the judge's verdict, its weight), salt,
          annotations.jsonl (what the study page gathered)
labels.csv, which `import` makes of annotations
"""

import dataclasses
import functools
import hashlib
import hmac
import io
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from etils import epath
from PIL import Image

from fmd_jax.progress import Progress
from fmd_jax.records.files import write_atomic
from fmd_jax.trust.scoring import KEY

ANNOTATIONS = 5
_ID = 12  # hexadecimal digits of an item's name


class Item(NamedTuple):
  """What an annotator is shown.

  Attributes:
    item: its name, which tells nothing of the run.
    image: name of a file in share/images.
    question, answer: texts of models, as recorded.
  """

  item: str
  image: str
  question: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Study:
  """A study in its folder.

  Attributes:
    folder: where it is.
    annotations: how many people label each item.
  """

  folder: pathlib.Path
  annotations: int

  @property
  def images(self) -> pathlib.Path:
    return self.folder / "share" / "images"

  @property
  def journal(self) -> pathlib.Path:
    return self.folder / "private" / "annotations.jsonl"

  @property
  def labels(self) -> pathlib.Path:
    return self.folder / "labels.csv"

  @functools.cached_property
  def items(self) -> list[Item]:
    """All of them, in an order that tells nothing."""
    text = (self.folder / "share" / "items.jsonl").read_text(encoding="utf-8")
    return [Item(**json.loads(line)) for line in text.splitlines()]

  def key(self) -> pd.DataFrame:
    """A row for each drawn slot: item, `KEY`, skill, verdict, weight."""
    path = self.folder / "private" / "key.csv"
    return pd.read_csv(path, dtype={"image_id": str, "item": str})

  def pseudonym(self, who: str) -> str:
    """A name for an annotator that does not tell who it is, the same each time."""
    salt = (self.folder / "private" / "salt").read_bytes()
    return "r" + hmac.new(salt, who.encode(), hashlib.sha256).hexdigest()[:16]


def open_study(folder: str | os.PathLike) -> Study:
  """The study in a folder.

  Raises:
    FileNotFoundError: there is none.
  """
  path = pathlib.Path(folder) / "study.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{folder} holds no study: make one with launch.human_study export"
    )
  return Study(path.parent, json.loads(path.read_text())["annotations"])


def write_study(
  workdir: str | os.PathLike,
  folder: str | os.PathLike,
  drawn: pd.DataFrame,
  *,
  annotations: int,
  seed: int,
  also: Callable[[Study, pathlib.Path], None],
) -> Study:
  """Writes a new study, whole or not at all.

  A question that was asked more than once about one picture, and answered alike, is one
  item for all of its slots.

  Args:
    workdir: of the run, with the pictures.
    folder: of the study, which must not be there.
    drawn: of `draw_slots`.
    annotations: how many people label each item.
    seed: of the names and the order of the items.
    also: writes other forms of the items into the given folder.

  Raises:
    FileExistsError: the folder is there.
    FileNotFoundError: a picture is not.
  """
  folder = pathlib.Path(folder)
  if folder.exists():
    raise FileExistsError(
      f"{folder} is there already, maybe with people's work: name another with "
      "--study, or move it away"
    )
  texts = zip(drawn["image_id"], drawn["question"], drawn["answer"])
  key = drawn.assign(item=[_name(seed, *text) for text in texts]).sort_values("item")
  shown = key.drop_duplicates("item")
  # Not in the order of strata, and not by image_id, which tells the split.
  images = dict.fromkeys(shown["image_id"])
  images = {image: f"{place:04d}.png" for place, image in enumerate(images, 1)}
  made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
  try:
    (made / "share" / "images").mkdir(parents=True)
    (made / "private").mkdir(mode=0o700)
    for image_id, name in Progress(images.items(), desc="pictures", unit="picture"):
      png = pixels_only(epath.Path(workdir) / "images" / f"{image_id}.png")
      (made / "share" / "images" / name).write_bytes(png)
    rows = zip(
      shown["item"],
      shown["image_id"].map(images),
      shown["question"],
      shown["answer"],
    )
    lines = [json.dumps(Item(*row)._asdict()) + "\n" for row in rows]
    (made / "share" / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    columns = ["item", *KEY, "skill", "stratum", "verdict", "weight"]
    key[columns].to_csv(made / "private" / "key.csv", index=False)
    (made / "private" / "salt").write_bytes(secrets.token_bytes(32))
    statement = {
      "annotations": annotations,
      "seed": seed,
      "items": len(shown),
      "slots": len(key),
    }
    write_atomic(made / "study.json", json.dumps(statement, indent=2).encode())
    also(open_study(made), made / "share")
    made.replace(folder)
  finally:
    shutil.rmtree(made, ignore_errors=True)
  return open_study(folder)


def _name(seed: int, *text: str) -> str:
  return hashlib.sha256(json.dumps([seed, *text]).encode()).hexdigest()[:_ID]


def pixels_only(path: epath.Path) -> bytes:
  """A picture without its text chunks: a testbed picture tells all answers in one."""
  with Image.open(io.BytesIO(path.read_bytes())) as image:
    # A new image: `save` would carry over what it knows of a format.
    bare = Image.new("RGB", image.size)
    bare.paste(image.convert("RGB"))
  buffer = io.BytesIO()
  bare.save(buffer, "PNG")
  return buffer.getvalue()
