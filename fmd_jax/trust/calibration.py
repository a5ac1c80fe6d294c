"""calibration.json: how often each judge errs, against people's labels."""

import json
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax.evaluate import CALIBRATION
from fmd_jax.metrics import wilson
from fmd_jax.metrics.bootstrap import LEVEL, effective_n
from fmd_jax.records.files import write_atomic

_COLUMNS = ["judge", "image_id", "valid", "correct", "true_valid", "true_correct"]
_MEANING = {
  "valid": "a fault is an invalid question",
  "correct": "a fault is a wrong answer to a valid question that is called valid",
  "sensitivity": "share of faults that the judge calls so",
  "specificity": "share of the faultless that it calls so",
  "wrong_when_invalid": "share called wrong of the invalid questions called valid",
}


def calibrate(items: pd.DataFrame, *, level: float = LEVEL) -> dict[str, Any]:
  """Sensitivity and specificity of each judge, over all, by method and by band.

  Args:
    items: one row for each judge and labelled question: judge (its identity), image_id,
      valid and correct (its verdict; null where it gave none), true_valid and
      true_correct (people's consensus; true_correct is null for an invalid question);
      optional: method, band (see `metrics.difficulty`), and weight, one over the
      probability with which the item was drawn: a sample that favours some verdicts
      gives wrong shares without.
    level: of the intervals: Wilson's on the effective n, which weights and items of the
      same image lower.

  Returns:
    What calibration.json holds: {"judges": {identity: {"valid" | "correct":
    {"sensitivity", "specificity" (and for "correct" "wrong_when_invalid"): {value, low,
    high, n, hits, n_eff}}, "methods": {method: the same}, "bands": {band: the same},
    "labels": {"image_id", "band", and as above {"n", "hits"}: lists, a place for each
    image and band}}}, "meaning", "items"}. A value is None where no label tells it.

  Raises:
    ValueError: a column is missing, or a weight is not above 0.
  """
  missing = [name for name in _COLUMNS if name not in items]
  if missing:
    raise ValueError(f"the labelled items have no column {', '.join(missing)}")
  if "weight" in items and not (items["weight"] > 0).all():
    raise ValueError("an item's weight is not above 0")
  judges = {}
  for judge, own in items.groupby("judge"):
    judges[str(judge)] = _errors(own, level) | {"labels": _by_image(own)}
    for column, name in (("method", "methods"), ("band", "bands")):
      if column in own:
        judges[str(judge)][name] = {
          str(key): _errors(part, level) for key, part in own.groupby(column)
        }
  return {"judges": judges, "meaning": _MEANING, "items": len(items)}


def _shares(items: pd.DataFrame) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
  """Part -> statistic -> which labels tell it, and which of these are hits."""
  flags = {
    name: items[name].astype("boolean").to_numpy(float, na_value=np.nan)
    for name in _COLUMNS[2:]
  }
  valid, correct, true_valid, true_correct = flags.values()
  # Of the answer the judge speaks only after it called the question valid.
  both = (valid == 1) & (true_valid == 1) & ~np.isnan(correct)
  untrue = (valid == 1) & (true_valid == 0) & ~np.isnan(correct)
  return {
    "valid": {
      "sensitivity": ((true_valid == 0) & ~np.isnan(valid), valid == 0),
      "specificity": ((true_valid == 1) & ~np.isnan(valid), valid == 1),
    },
    "correct": {
      "sensitivity": (both & (true_correct == 0), correct == 0),
      "specificity": (both & (true_correct == 1), correct == 1),
      "wrong_when_invalid": (untrue, correct == 0),
    },
  }


def _errors(items: pd.DataFrame, level: float) -> dict[str, Any]:
  return {
    part: {
      name: _share(items[of], hit[of], level) for name, (of, hit) in statistics.items()
    }
    for part, statistics in _shares(items).items()
  }


def _by_image(items: pd.DataFrame) -> dict[str, Any]:
  """The labels of each image and band, weighted: what the bootstrap draws again."""
  bands = items["band"] if "band" in items else pd.Series("all", items.index)
  keys = pd.MultiIndex.from_arrays([items["image_id"].astype(str), bands.astype(str)])
  rows, groups = pd.factorize(keys, sort=True)
  weight = items["weight"].to_numpy(float) if "weight" in items else np.ones(len(items))
  return {
    "image_id": list(groups.get_level_values(0)),
    "band": list(groups.get_level_values(1)),
    **{
      part: {
        name: {
          "n": np.bincount(rows, weight * of, len(groups)).tolist(),
          "hits": np.bincount(rows, weight * (of & hit), len(groups)).tolist(),
        }
        for name, (of, hit) in statistics.items()
      }
      for part, statistics in _shares(items).items()
    },
  }


def _share(items: pd.DataFrame, hit: np.ndarray, level: float) -> dict[str, Any]:
  n = len(items)
  if not n:
    return {**dict.fromkeys(("value", "low", "high")), "n": 0, "hits": 0, "n_eff": 0.0}
  weight = items["weight"].to_numpy(float) if "weight" in items else np.ones(n)
  images = pd.factorize(items["image_id"])[0]
  total = weight.sum()
  value = float((weight * hit).sum() / total)
  if 0 < value < 1 and images.max() > 0:
    clusters = images.max() + 1
    residuals = np.bincount(images, weight * (hit - value)) / total
    variance = (residuals**2).sum() * clusters / (clusters - 1)
    n_eff = min(float(n), value * (1 - value) / variance) if variance else float(n)
  else:
    n_eff = effective_n(np.bincount(images, weight))
  low, high = wilson(value, n_eff, level)
  return {
    "value": value,
    "low": low,
    "high": high,
    "n": n,
    "hits": int(hit.sum()),
    "n_eff": n_eff,
  }


def write_calibration(workdir: epath.PathLike, found: dict[str, Any]) -> None:
  """Writes calibration.json, whole or not at all."""
  text = json.dumps(found, indent=2, allow_nan=False) + "\n"
  write_atomic(epath.Path(workdir) / CALIBRATION, text.encode())
