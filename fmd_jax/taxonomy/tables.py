"""The finished taxonomy: primitives, skills, meta-skills, assignments."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from etils import epath

from fmd_jax.records.files import write_atomic
from fmd_jax.records.writer import write_parquet
from fmd_jax.taxonomy import edits
from fmd_jax.taxonomy.duplicates import normalise

COLUMNS = [
  "workdir", "method", "split", "step", "image_id", "response_index", "slot",
  "question", "rank", "primitive_id", "skill", "meta_skill",
]  # fmt: skip


class Made(NamedTuple):
  """What a primitive is, edits included.

  Attributes:
    skill_of: [P] skill of each primitive.
    meta_of: skill -> meta-skill.
    about: meta-skill -> description.
    skill_topics: skill -> the topics that its primitives come from.
  """

  skill_of: list[str]
  meta_of: dict[str, str]
  about: dict[str, str]
  skill_topics: dict[str, list[int]]


def primitives_of(phrases: pd.DataFrame) -> pd.DataFrame:
  """Primitives of phrases: primitive_id 0..P-1 in order, phrase, count (carried)."""
  count = phrases.groupby("primitive_id")["count"].sum()
  names = phrases[phrases["stands"]].set_index("primitive_id")["phrase"]
  out = pd.DataFrame({"phrase": names, "count": count}).sort_index()
  return out.rename_axis("primitive_id").reset_index()


def finish(
  primitives: pd.DataFrame,
  found: Mapping[str, Any],
  grouping: Mapping[str, Any],
  by_hand: Sequence[edits.Edit],
) -> Made:
  """Applies the grouping of topics, then the edits, to primitives.

  Args:
    primitives: phrase and topic.
    found: topics.json.
    grouping: grouping.json.
    by_hand: edits.

  Raises:
    ValueError: an edit names what isn't there.
  """
  of_topic = {t: skill for skill, own in grouping["skills"].items() for t in own}
  about = {meta["name"]: meta["description"] for meta in grouping["meta_skills"]}
  meta_of = {
    skill: meta["name"] for meta in grouping["meta_skills"] for skill in meta["skills"]
  }
  skill_of = {
    phrase: of_topic[topic]
    for phrase, topic in zip(primitives["phrase"], primitives["topic"])
  }
  skill_of, meta_of = edits.apply(by_hand, skill_of, meta_of)
  skills = [skill_of[phrase] for phrase in primitives["phrase"]]
  topics: dict[str, set[int]] = {skill: set() for skill in meta_of}
  for skill, topic in zip(skills, primitives["topic"]):
    topics[skill].add(int(topic))
  return Made(skills, meta_of, about, {s: sorted(own) for s, own in topics.items()})


def assign(
  rows: pd.DataFrame,
  annotated: pd.DataFrame,
  primitive_of: Mapping[str, int],
  made: Made,
) -> pd.DataFrame:
  """One row for each question row and skill, in the annotator's order.

  Args:
    rows: of `questions.read`; those that aren't valid get none.
    annotated: workdir, image_id, question, primitives.
    primitive_of: normalised phrase -> primitive_id.
    made: of `finish`.

  Returns:
    COLUMNS; `rank` counts a question's skills from 0, as the annotator ranked them.
  """
  key = ["workdir", "image_id", "question"]
  own = annotated[[*key, "primitives"]].explode("primitives", ignore_index=True)
  own["primitive_id"] = [primitive_of[normalise(p)] for p in own.pop("primitives")]
  own["skill"] = [made.skill_of[p] for p in own["primitive_id"]]
  own = own.drop_duplicates([*key, "skill"])
  own["meta_skill"] = own["skill"].map(made.meta_of)
  own["rank"] = own.groupby(key, sort=False).cumcount()
  valid = rows.loc[rows["valid"], [c for c in COLUMNS if c in rows]]
  return valid.merge(own, on=key, how="inner")[COLUMNS]


def write(
  workdirs: Sequence[epath.Path],
  primitives: pd.DataFrame,
  made: Made,
  assigned: pd.DataFrame,
  summary: Mapping[str, Any],
) -> None:
  """Writes the four tables and summary.json into `taxonomy/` of each workdir.

  Every workdir gets the whole taxonomy and the assignments of its own questions.
  """
  distinct = assigned.drop_duplicates(["workdir", "image_id", "question", "skill"])
  asked = distinct["skill"].value_counts()
  primitives = primitives.assign(skill=made.skill_of)
  many = primitives["skill"].value_counts()
  names = sorted(made.meta_of, key=lambda skill: (-asked.get(skill, 0), skill))
  skills = pd.DataFrame(
    {
      "skill": names,
      "topic": [made.skill_topics[skill] for skill in names],
      "meta_skill": [made.meta_of[skill] for skill in names],
      "primitives": [int(many[skill]) for skill in names],
      "questions": [int(asked.get(skill, 0)) for skill in names],
    }
  )
  groups = list(dict.fromkeys(skills["meta_skill"]))
  meta = pd.DataFrame(
    {
      "meta_skill": groups,
      "description": [made.about.get(name, "") for name in groups],
      "skills": [
        skills.loc[skills["meta_skill"] == name, "skill"].tolist() for name in groups
      ],
    }
  )
  text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
  for workdir in workdirs:
    folder = workdir / "taxonomy"
    own = assigned[assigned["workdir"] == str(workdir)].reset_index(drop=True)
    write_parquet(folder / "primitives.parquet", primitives)
    write_parquet(folder / "skills.parquet", skills)
    write_parquet(folder / "meta_skills.parquet", meta)
    write_parquet(folder / "assignments.parquet", own)
    write_atomic(folder / "summary.json", text.encode())
