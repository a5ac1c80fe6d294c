"""Ships what a run against one answerer found, as a corpus to fine-tune on.

`failures://testbed/NAME` opens it. The pictures are not shipped: a testbed picture is
drawn from its name.
"""

import json
import pathlib

from fmd_jax import data

ASSETS = pathlib.Path(__file__).parent / "assets"


def ship(workdir: pathlib.Path, folder: pathlib.Path = ASSETS) -> pathlib.Path:
  """Writes `<answerer>.failures.json` of the failures that a run found while training.

  Args:
    workdir: of an evaluated run on testbed pictures.
    folder: where to.

  Raises:
    ValueError: a picture is none of the testbed's.
  """
  spec = f"failures://{workdir}?split=train"
  images = {image.image_id: asked for image, asked in data.open_corpus(spec)}
  for image_id in images:
    if not image_id.startswith("testbed-"):
      raise ValueError(f"{spec}: {image_id} can't be drawn from its name")
  manifest = json.loads((workdir / "manifest.json").read_text())
  shipped = {
    "answerer": manifest["models"]["answerer"],
    "questioner": manifest["models"]["questioner"],
    "evaluator": manifest["models"]["evaluator"],
    "train": manifest["config"]["data"]["train"],
    "images": {key: list(images[key]) for key in sorted(images)},
  }
  name = shipped["answerer"].partition("@")[0].rpartition("/")[2]
  path = folder / f"{name}.failures.json"
  path.write_text(json.dumps(shipped, indent=0, ensure_ascii=False) + "\n")
  return path
