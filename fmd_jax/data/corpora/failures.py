"""failures://: valid questions that a model answered wrongly, as a run found them."""

import io
import json
import operator
import pathlib

import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from fmd_jax.data.corpora.corpus import Item, Origin
from fmd_jax.data.options import parse_options
from fmd_jax.data.sources import Skipped
from fmd_jax.data.testbed import draw
from fmd_jax.types import ImageExample

_SHIPPED = pathlib.Path(__file__).parents[2] / "testbed" / "assets"


class Failures:
  """The failures in a workdir's evaluations, or those that the package ships.

  A failure is a row that the independent evaluator calls valid, and its answer wrong.
  Questions about one image are distinct and in the order in which they were asked.

  Options of the spec: `method` ("" for all), `split` (train, heldout, "" for both),
  `limit` (the first so many images).
  """

  def __init__(self, location: str, query: str):
    options = parse_options(query, {"method": "", "split": "", "limit": None})
    self.name = f"failures://{location}" + (f"?{query}" if query else "")
    self.skipped: list[Skipped] = []
    self._folder: epath.Path | None = None
    if location.startswith("testbed/"):
      if options["method"] or options["split"]:
        raise ValueError("shipped failures have no option but limit")
      by_image, revision = _read_shipped(location.removeprefix("testbed/"))
    else:
      self._folder = epath.Path(location)
      by_image, revision = self._read(options["method"], options["split"])
    self._items = list(by_image.items())[: options["limit"]]
    if not self._items:
      raise ValueError("it holds no failure: no valid question with a wrong answer")
    origin = f"failures://{location}" if self._folder is None else self.name
    self.origins = (Origin(origin, "made by this project", revision),)

  def _read(self, method, split):
    tables = _evaluations(self._folder, method, split)
    found: dict[str, dict[str, None]] = {}
    missing = {}
    for table in tables:
      rows = table.filter(pc.field("valid") & ~pc.field("correct"))
      for image_id, question in zip(
        rows["image_id"].to_pylist(), rows["question"].to_pylist(), strict=True
      ):
        if self._image(image_id).is_file():
          found.setdefault(image_id, {})[question] = None
        else:
          missing[image_id] = None
    self.skipped += [
      Skipped(str(self._image(i).relative_to(self._folder)), "there is no such file")
      for i in missing
    ]
    return {i: tuple(asked) for i, asked in found.items()}, _answerer(self._folder)

  def _image(self, image_id: str) -> epath.Path:
    return self._folder / "images" / f"{image_id}.png"

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, index: int) -> Item:
    image_id, questions = self._items[operator.index(index)]
    if self._folder is None:
      return draw(image_id), questions
    return ImageExample(image_id, self._image(image_id).read_bytes()), questions


def _evaluations(folder: epath.Path, method: str, split: str) -> list:
  if split not in ("", "train", "heldout"):
    raise ValueError(f"split is {split!r}; it can be train or heldout, or left out")
  paths = sorted((folder / "evaluations").glob("*.parquet"))
  if not paths:
    raise FileNotFoundError(
      f"there are no evaluations in {str(folder)!r}: it is no workdir, or "
      f"`python -m launch.evaluate --workdir {folder}` has not been run"
    )
  columns = ["method", "split", "image_id", "question", "valid", "correct"]
  tables = [
    pq.read_table(io.BytesIO(path.read_bytes()), columns=columns) for path in paths
  ]
  tables = [table for table in tables if len(table)]
  named = [(t["method"][0].as_py(), t["split"][0].as_py(), t) for t in tables]
  chosen = [t for m, s, t in named if method in ("", m) and split in ("", s)]
  if not chosen:
    there = ", ".join(f"method={m}&split={s}" for m, s, _ in named) or "none"
    raise ValueError(f"no evaluations of {method or split!r}; there are: {there}")
  return chosen


def _answerer(folder: epath.Path) -> str:
  path = folder / "manifest.json"
  manifest = json.loads(path.read_text()) if path.is_file() else {"models": {}}
  return f"answered by {manifest['models'].get('answerer', 'an unknown model')}"


def _read_shipped(name: str):
  path = _SHIPPED / f"{name}.failures.json"
  if not path.is_file():
    known = sorted(_SHIPPED.glob("*.failures.json"))
    named = ", ".join(
      f"failures://testbed/{p.name.removesuffix('.failures.json')}" for p in known
    )
    raise FileNotFoundError(f"no such failures are shipped; there are: {named}")
  shipped = json.loads(path.read_text())
  by_image = {i: tuple(asked) for i, asked in shipped["images"].items()}
  return by_image, f"answered by {shipped['answerer']}"
