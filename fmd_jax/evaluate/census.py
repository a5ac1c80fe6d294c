"""The truth about the testbed's answerers, where there is one."""

import json
import pathlib

from absl import logging
from etils import epath

_CENSUSES = pathlib.Path(__file__).parents[1] / "testbed" / "assets"


def shipped_census(workdir: epath.PathLike) -> dict | None:
  """The census of the run's answerer: cell -> n, failures, rate, planted.

  None for a model that has none, and for another model of the name of one that has.
  """
  path = epath.Path(workdir) / "manifest.json"
  manifest = json.loads(path.read_text()) if path.is_file() else {}
  answerer = str(manifest.get("models", {}).get("answerer", ""))
  name = answerer.partition("@")[0].rpartition("/")[2]
  path = _CENSUSES / f"{name}.census.json"
  if not path.is_file():
    return None
  census = json.loads(path.read_text())
  if census["answerer"] != answerer:
    logging.warning("the census is of %s, not of %s", census["answerer"], answerer)
    return None
  return census["cells"]
