"""Which questions of a run become a suite: failures, and guards: answered right."""

import hashlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import metrics
from fmd_jax.evaluate import allocate, read_evaluations, with_skills
from fmd_jax.records.confirmed import read_confirmed
from fmd_jax.types import ImageExample

ELSEWHERE = "{}, elsewhere"  # a skill, without the cells that were found to fail


class Chosen(NamedTuple):
  """Rows as `Suite.questions` has them, without reference answers, and their images.

  `truths` are the true answers that the run knows, "" where it does not.
  """

  questions: pd.DataFrame
  truths: list[str]
  images: dict[str, ImageExample]


def choose(
  workdir: epath.PathLike,
  *,
  failures: int,
  guards: int,
  tier: int,
  share: float,
  seed: int,
) -> Chosen:
  """Draws distinct questions of a run, as many of each group.

  A group is a cell that the run shows to fail at least half of the time, or else a
  skill; without known cells, each skill of a question; without skills, its first words.

  Args:
    workdir: of an evaluated run.
    failures: how many failures at most.
    guards: how many questions that were answered right: what a repair may break.
    tier: failures that reached it (`metrics.TIERS`).
    share: of the images; questions about the others stay free to learn from.
    seed: of the draws.

  Raises:
    ValueError: there are no evaluations, no such failures, no confirmed.parquet.
  """
  workdir = epath.Path(workdir)
  tables, _ = with_skills(workdir, read_evaluations(workdir, tier))
  if not tables:
    raise ValueError(f"{workdir} has no evaluations; launch.evaluate makes them")
  rows = pd.concat(tables.values(), ignore_index=True)
  cells = metrics.failing_cells(rows)
  flags = metrics.flags(rows)
  rows = rows.assign(
    kind=np.where(flags["failure"], "failure", "guard"), groups=_groups(rows, cells)
  )[flags["valid"]]
  rows = rows.sort_values("kind", kind="stable")  # one that failed once is a failure
  rows = rows.drop_duplicates(["image_id", "question"])
  images = rows[["image_id"]].assign(question="image")
  rows = rows[metrics.draws(images, seed) < share]
  wanted = {"failure": failures, "guard": guards}
  parts = [
    _draw(rows[rows["kind"] == kind], number, seed) for kind, number in wanted.items()
  ]
  if not len(parts[0]):
    raise ValueError(f"{workdir} holds no failure of tier {tier} or higher")
  rows = pd.concat(parts)
  images = {
    image_id: ImageExample(
      image_id, (workdir / "images" / f"{image_id}.png").read_bytes()
    )
    for image_id in sorted(rows["image_id"].unique())
  }
  digests = rows["image_id"].map(lambda image_id: images[image_id].sha256)
  texts = (digests + "\n" + rows["question"]).str.encode("utf-8")
  confirmed = read_confirmed(workdir)
  tiers = [1.0] * len(rows)
  if confirmed is not None:
    tiers = metrics.tier_of(rows, confirmed.table)["tier"].fillna(1)
  questions = pd.DataFrame(
    {
      "id": [hashlib.sha256(text).hexdigest()[:16] for text in texts],
      "image_id": rows["image_id"],
      "image_sha256": digests,
      "question": rows["question"],
      "kind": rows["kind"],
      "groups": rows["groups"],
      "tier": np.where(rows["kind"] == "failure", tiers, 0).astype(int),
      "discovered": rows["answer"],
    }
  ).reset_index(drop=True)
  truths = [truth if isinstance(truth, str) else "" for truth in rows["truth"]]
  return Chosen(questions, truths, images)


def _groups(rows: pd.DataFrame, cells: list[str]) -> list[list[str]]:
  """The groups of each row."""
  skills = rows.get("skills", pd.Series([None] * len(rows)))
  out = []
  for prefix, own, lies in zip(rows["prefix"], skills, rows["cells"]):
    own = list(own) if np.ndim(own) else []
    if not own:
      out.append([prefix])
    elif np.ndim(lies):
      # One group a question: those of a planted cell fill innocent ones too.
      found = [cell for cell in cells if cell in set(lies)]
      out.append(found[:1] or [ELSEWHERE.format(own[0])])
    else:
      out.append(own)
  return out


def _draw(rows: pd.DataFrame, number: int, seed: int) -> pd.DataFrame:
  """Up to `number` rows, as many of each first group, by chance."""
  first = rows["groups"].str[0]
  sizes = first.value_counts().to_dict()
  if number < sum(sizes.values()):
    sizes = allocate(sizes, number)
  rows = rows.iloc[np.argsort(metrics.draws(rows, seed), kind="stable")]
  place = rows.groupby(rows["groups"].str[0]).cumcount()
  limits = rows["groups"].str[0].map(sizes)
  return rows[place < limits].sort_values(["image_id", "question"], kind="stable")
