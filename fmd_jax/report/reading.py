"""The files of a workdir that the report shows; each may be absent."""

import base64
import dataclasses
import io
import json
import os
import pathlib
from typing import Any

import pandas as pd
from PIL import Image

from fmd_jax import records

# In the order in which a reader compares them; others follow by name.
METHODS = {
  "zero_shot": "Zero Shot",
  "sft": "SFT",
  "conme": "ConMe",
  "expert_iteration": "Expert Iteration",
  "grpo": "RL (GRPO)",
  "sft_then_grpo": "RL + SFT",
}
_SIDE = 320  # pixels: a picture in a card is not shown larger


@dataclasses.dataclass(frozen=True)
class Method:
  """A method's name, what people call it, and the number of its colour."""

  name: str
  label: str
  kind: int


@dataclasses.dataclass(frozen=True)
class Run:
  """What a workdir holds."""

  folder: pathlib.Path
  manifest: dict[str, Any]
  config: dict[str, Any]
  metrics: dict[str, Any]
  methods: list[Method]
  asked: dict[str, pd.DataFrame]
  measurements: pd.DataFrame
  evaluations: pd.DataFrame


def read_run(workdir: str | os.PathLike) -> Run:
  """Reads a workdir.

  Raises:
    FileNotFoundError: it holds neither records nor evaluations.
  """
  folder = pathlib.Path(workdir)
  parts = [pd.read_parquet(p) for p in sorted(folder.glob("evaluations/*.parquet"))]
  evaluations = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
  asked = {name: records.read(folder, name) for name in records.methods(folder)}
  metrics = _json(folder / "metrics.json")
  names = {*asked, *metrics.get("methods", {})}
  if len(evaluations):
    names |= set(evaluations["method"])
  if not names:
    raise FileNotFoundError(f"{folder} holds no run: neither records nor evaluations")
  order = [n for n in METHODS if n in names] + sorted(names - set(METHODS))
  methods = [
    Method(name, METHODS.get(name, name), kind % 6) for kind, name in enumerate(order)
  ]
  return Run(
    folder=folder,
    manifest=_json(folder / "manifest.json"),
    config=_json(folder / "config.json"),
    metrics=metrics,
    methods=methods,
    asked=asked,
    measurements=records.read_measurements(folder),
    evaluations=evaluations,
  )


def _json(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def picture(folder: pathlib.Path, image_id: str) -> str:
  """The picture as a `data:` address, small enough for a card; "" when absent."""
  path = folder / "images" / f"{image_id}.png"
  # An id is a file name; anything else comes from a file somebody made.
  if pathlib.Path(image_id).name != image_id or not path.exists():
    return ""
  with Image.open(path) as image:
    small = image.convert("RGB")
  small.thumbnail((_SIDE, _SIDE))
  buffer = io.BytesIO()
  kind = "PNG" if max(small.size) <= 128 else "JPEG"
  small.save(buffer, kind, quality=85, optimize=True)
  text = base64.b64encode(buffer.getvalue()).decode()
  return f"data:image/{kind.lower()};base64,{text}"
