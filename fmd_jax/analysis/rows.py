"""The rows that all analyses read: evaluations of some runs, with skills."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import metrics, records
from fmd_jax.metrics.skills import KEY
from fmd_jax.taxonomy import questions

PROTOCOLS = {"train": "during", "heldout": "after"}


def read(workdirs: Sequence[epath.Path]) -> pd.DataFrame:
  """Evaluated rows of some runs with the skills of their taxonomy.

  Args:
    workdirs: of finished runs.

  Returns:
    The columns of evaluations/*.parquet and: workdir, place (in the order of asking),
    failure, protocol (during, after), arm (what tables call it: the method, after the
    name of its run where there are several runs), skills, meta_skills (lists or None),
    true_skills (of the oracle), filed (the skill that its annotator named first).
    Skills are the taxonomy's where the run has one, else the oracle's, each its own
    meta-skill.

  Raises:
    FileNotFoundError: a run has no evaluations.
  """
  names = _names(workdirs)
  parts = []
  for workdir in workdirs:
    rows = questions.read([workdir])
    rows["skills"] = [list(own) if np.iterable(own) else None for own in rows["skills"]]
    rows["true_skills"] = rows["skills"]
    path = workdir / "taxonomy" / "assignments.parquet"
    if path.is_file():
      assigned = records.read_parquet(path)
      rows = metrics.with_skills(rows, assigned)
      meta = metrics.with_skills(rows, assigned.assign(skill=assigned["meta_skill"]))
      rows["meta_skills"] = meta["skills"]
      first = assigned[assigned["rank"] == 0].set_index(KEY)["skill"]
      rows["filed"] = first.reindex(pd.MultiIndex.from_frame(rows[KEY])).to_numpy()
    else:
      rows["meta_skills"], rows["filed"] = rows["skills"], rows["skills"].str[0]
    name = names[workdir]
    rows["arm"] = rows["method"] if len(workdirs) == 1 else name + " " + rows["method"]
    parts.append(rows)
  out = pd.concat(parts, ignore_index=True)
  out["protocol"] = out["split"].map(PROTOCOLS)
  return out


def _names(workdirs: Sequence[epath.Path]) -> dict[epath.Path, str]:
  """A short name of each workdir, distinct."""
  paths = [epath.Path(workdir).resolve() for workdir in workdirs]
  for depth in range(1, max(len(path.parts) for path in paths)):
    names = ["/".join(path.parts[-depth:]) for path in paths]
    if len(set(names)) == len(paths):
      break
  return dict(zip(workdirs, names))


def describe(workdirs: Sequence[epath.Path]) -> pd.DataFrame:
  """What distinguishes some runs: one row each.

  Returns:
    workdir, run, seed, questioner, answerer, verifier, terms (of the reward),
    prefix_length (L), questions_per_image (K). None is what a run does not tell.
  """
  names = _names(workdirs)
  out = []
  for workdir in workdirs:
    told = _json(workdir / "config.json")
    models = _json(workdir / "manifest.json").get("models", {})
    roles = told.get("roles", {}) | models
    reward = told.get("reward", {})
    out.append(
      {
        "workdir": str(workdir),
        "run": names[workdir],
        "seed": told.get("seed"),
        **{name: roles.get(name) for name in ("questioner", "answerer", "verifier")},
        "terms": "+".join(reward.get("terms", ())) or None,
        "prefix_length": reward.get("prefix_length"),
        "questions_per_image": told.get("questions_per_image"),
      }
    )
  return pd.DataFrame(out)


def _json(path: epath.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.is_file() else {}


def arms(rows: pd.DataFrame):
  """(arm, protocol, rows) of each, Zero Shot first, while training before after."""
  order = {"during": 0, "after": 1}
  groups = rows.groupby(["arm", "protocol"], sort=True)
  keys = sorted(
    groups.groups, key=lambda k: ("zero_shot" not in k[0], k[0], order[k[1]])
  )
  for arm, protocol in keys:
    yield arm, protocol, groups.get_group((arm, protocol)).sort_values("place")


def known(rows: pd.DataFrame) -> pd.DataFrame:
  """The valid rows whose skills are known."""
  return rows[rows["valid"] & rows["skills"].notna()]


def interval(prefix: str, estimate: Any) -> dict[str, Any]:
  """`prefix`, `prefix`_low, `prefix`_high of an estimate, for a table's row."""
  own = estimate if isinstance(estimate, dict) else estimate._asdict()
  return {
    prefix: own["value"], f"{prefix}_low": own["low"], f"{prefix}_high": own["high"]
  }  # fmt: skip


def windows(steps: pd.Series, count: int) -> np.ndarray:
  """The window 0..count-1 of training that each step falls into."""
  last = max(int(steps.max()), 0) + 1
  return (steps.to_numpy() * count // last).astype(int)
