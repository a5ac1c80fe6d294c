"""The files of a workdir that the report shows; each may be absent."""

import dataclasses
import json
from typing import Any

import pandas as pd
from etils import epath

from fmd_jax import metrics, records

# In the order in which a reader compares them; others follow by name.
METHODS = {
  "zero_shot": "Zero Shot",
  "sft": "SFT",
  "conme": "ConMe",
  "expert_iteration": "Expert Iteration",
  "grpo": "RL (GRPO)",
  "sft_then_grpo": "RL + SFT",
}


@dataclasses.dataclass(frozen=True)
class Method:
  """A method's name, what people call it, and the number of its colour."""

  name: str
  label: str
  kind: int


@dataclasses.dataclass(frozen=True)
class Taxonomy:
  """The tables of `taxonomy/`, as `launch.taxonomy` writes them."""

  primitives: pd.DataFrame
  skills: pd.DataFrame
  meta_skills: pd.DataFrame


@dataclasses.dataclass(frozen=True)
class Run:
  """What a workdir holds.

  Attributes:
    evaluations: with the skills of the taxonomy where there is one, else with those
      that the judge knew.
    calibration: of the judges, by their identity; empty when none was measured.
    confirmed: what `launch.confirm` found, or None.
    tier: of the failures that count; above 1 the others were taken out.
  """

  folder: epath.Path
  manifest: dict[str, Any]
  config: dict[str, Any]
  metrics: dict[str, Any]
  methods: list[Method]
  asked: dict[str, pd.DataFrame]
  measurements: pd.DataFrame
  evaluations: pd.DataFrame
  taxonomy: Taxonomy | None
  calibration: dict[str, Any]
  confirmed: records.Confirmed | None = None
  tier: int = 1

  def model(self, role: str, otherwise: str) -> str:
    """The identity of the model that played a role."""
    found = self.manifest.get("models", {}).get(role, otherwise)
    return str(found.get("name", otherwise)) if isinstance(found, dict) else str(found)


def read_run(workdir: epath.PathLike, tier: int = 1) -> Run:
  """Reads a workdir.

  Args:
    workdir: of a run.
    tier: above 1, only failures that reached it are left as such.

  Raises:
    FileNotFoundError: it holds neither records nor evaluations, or nothing of the tier.
  """
  folder = epath.Path(workdir)
  confirmed = records.read_confirmed(folder)
  numbers = folder / (f"metrics-tier-{tier}.json" if tier > 1 else "metrics.json")
  if tier > 1 and (confirmed is None or not numbers.is_file()):
    raise FileNotFoundError(
      f"{folder} has no {numbers.name}: python -m launch.confirm --workdir {folder}, "
      f"then python -m launch.evaluate --workdir {folder} --tier {tier}"
    )
  parts = [
    _at_tier(records.read_parquet(path), confirmed, path.stem, tier)
    for path in sorted((folder / "evaluations").glob("*.parquet"))
  ]
  evaluations = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
  taxonomy, assigned = _taxonomy(folder / "taxonomy")
  if assigned is not None and len(evaluations):
    evaluations = _with_skills(evaluations, assigned)
  asked = {name: records.read(folder, name) for name in records.methods(folder)}
  found = _json(numbers)
  names = {*asked, *found.get("methods", {})}
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
    metrics=found,
    methods=methods,
    asked=asked,
    measurements=records.read_measurements(folder),
    evaluations=evaluations,
    taxonomy=taxonomy,
    calibration=_json(folder / "calibration.json").get("judges", {}),
    confirmed=confirmed,
    tier=tier,
  )


def _at_tier(rows: pd.DataFrame, confirmed, name: str, tier: int) -> pd.DataFrame:
  return rows if tier == 1 else metrics.at_tier(rows, *confirmed, name, tier)


def _taxonomy(folder: epath.Path) -> tuple[Taxonomy | None, pd.DataFrame | None]:
  """The taxonomy and which question needs which skill; None while it is not whole."""
  names = ("primitives", "skills", "meta_skills", "assignments")
  paths = [folder / f"{name}.parquet" for name in names]
  if not all(path.is_file() for path in paths):
    return None, None
  *tables, assigned = (records.read_parquet(path) for path in paths)
  return Taxonomy(*tables), assigned


def _with_skills(rows: pd.DataFrame, assigned: pd.DataFrame) -> pd.DataFrame:
  """Puts the skills of the taxonomy in place of those that came with the rows."""
  # Skills belong to a question about a picture, however often it was asked.
  key = ["image_id", "question"]
  own = assigned.dropna(subset="skill").groupby(key)["skill"]
  own = own.agg(lambda skills: sorted(set(skills))).rename("skills")
  rows = rows.drop(columns="skills", errors="ignore")
  return rows.merge(own, how="left", left_on=key, right_index=True)


def _json(path: epath.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}
