"""The stages of the taxonomy, each a file that is kept while what it comes from stays.

questions -> annotations.jsonl -> phrases.parquet, vectors.npy -> topics.parquet ->
labels.json -> grouping.json -> (edits.csv) -> primitives, skills, meta_skills and
assignments.parquet, summary.json
"""

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from absl import logging
from etils import epath
from tqdm import tqdm

from fmd_jax import prompts
from fmd_jax.inference import Embedder, Generator, identity
from fmd_jax.records.files import write_atomic
from fmd_jax.records.reader import read_parquet
from fmd_jax.records.writer import write_parquet
from fmd_jax.taxonomy import (
  annotations,
  duplicates,
  edits,
  naming,
  questions,
  tables,
  topics,
)

FOLDER = "taxonomy"
_EMBED = 1024  # texts at a time


@dataclasses.dataclass(frozen=True)
class Settings:
  """Numbers of a taxonomy; see `taxonomy` in configs/base.py."""

  seed: int
  questions: int
  max_tokens: int
  retries: int
  near_duplicate: float
  min_topic_size: int
  stability_seeds: int
  label_duplicate: float


@dataclasses.dataclass(frozen=True)
class Models:
  """Who annotates, names and embeds."""

  annotator: Generator
  namer: Generator
  embedder: Embedder


def build(
  workdirs: Sequence[epath.Path], models: Models, settings: Settings
) -> epath.Path:
  """Makes one taxonomy of the questions of all methods of some runs.

  Called again it goes on where it stopped, and makes anew only what follows from a
  change: of the questions, a model, a setting or edits.csv.

  Args:
    workdirs: with evaluations and images. The stages' files lie in `taxonomy/` of the
      first; the finished tables in that of each, with its own questions' assignments.
    models: asked only for what they have not said before.
    settings: see `configs/base.py`.

  Returns:
    The folder with the stages' files.

  Raises:
    FileNotFoundError: no evaluations, or an image is missing.
    ValueError: no valid question, no annotation, or a bad edit.
    ImportError: a package is missing; says what to type.
  """
  home = workdirs[0] / FOLDER
  home.mkdir(parents=True, exist_ok=True)
  stages = _Stages(home)
  # First, so that a typing error costs no annotation.
  by_hand = edits.read(home / edits.FILE)
  rows = questions.read(workdirs)
  asked = questions.to_annotate(rows, settings.questions)
  if asked.empty:
    raise ValueError(
      f"no valid question in {', '.join(map(str, workdirs))}: there is nothing to "
      "make a taxonomy of"
    )
  options = {"max_tokens": settings.max_tokens, "retries": settings.retries}
  annotated = annotations.annotate(asked, models.annotator, **options)
  failed = annotated["primitives"].isna()
  if failed.all():
    raise ValueError(
      f"the annotator {identity(models.annotator)} failed on all {len(failed)} "
      f"questions; the first time with: {annotated['error'].iloc[0]}"
    )
  if failed.any():
    logging.warning(
      "%d of %d questions are unscored, the annotator failed; run this again to ask "
      "for them; the first error: %s",
      failed.sum(),
      len(failed),
      annotated.loc[failed, "error"].iloc[0],
    )
  annotated = annotated[~failed]

  # ---- phrases to primitives to topics ---------------------------------------------
  counts = Counter(
    duplicates.normalise(phrase) for own in annotated["primitives"] for phrase in own
  )
  stages.run(
    "primitives",
    [sorted(counts.items()), identity(models.embedder), settings.near_duplicate],
    ["phrases.parquet", "vectors.npy"],
    lambda: _primitives(home, counts, models.embedder, settings.near_duplicate),
  )
  phrases = read_parquet(home / "phrases.parquet")
  vectors = np.load(io.BytesIO((home / "vectors.npy").read_bytes()))
  primitives = tables.primitives_of(phrases)
  stages.run(
    "topics",
    [settings.seed, settings.min_topic_size, settings.stability_seeds],
    ["topics.parquet", "topics.json"],
    lambda: _topics(home, primitives["phrase"].tolist(), vectors, settings),
  )
  primitives["topic"] = read_parquet(home / "topics.parquet")["topic"]
  found = json.loads((home / "topics.json").read_text())
  logging.info(
    "%d topics of %d primitives; outliers re-assigned by embedding: %.1f %%; adjusted "
    "Rand index over seeds: %s",
    len(found["keywords"]),
    len(primitives),
    100 * found["outliers"],
    ", ".join(f"{value:.3f}" for value in found["agreement"]) or "not computed",
  )

  # ---- topics to skills to meta-skills ---------------------------------------------
  stages.run(
    "grouping",
    [
      identity(models.namer),
      [prompts.version(role) for role in ("namer", "organizer")],
      settings.label_duplicate,
    ],
    ["grouping.json"],
    lambda: _grouping(home, primitives, vectors, found["keywords"], models, settings),
  )
  grouping = json.loads((home / "grouping.json").read_text())

  # ---- corrections, and back to the questions --------------------------------------
  made = tables.finish(primitives, found, grouping, by_hand)
  primitive_of = dict(zip(phrases["phrase"], phrases["primitive_id"]))
  assigned = tables.assign(rows, annotated, primitive_of, made)
  summary = {
    "questions": len(asked),
    "unscored": float(failed.mean()),
    "phrases": len(phrases),
    "primitives": len(primitives),
    "topics": len(found["keywords"]),
    "outliers": found["outliers"],
    "agreement": found["agreement"],
    "min_topic_size": found["min_topic_size"],
    "unnamed_topics": grouping["unnamed"],
    "organizer_error": grouping["organizer_error"],
    "skills": len(made.skill_topics),
    "edits": len(by_hand),
    "models": {
      f.name: identity(getattr(models, f.name)) for f in dataclasses.fields(Models)
    },
    "settings": dataclasses.asdict(settings),
    "workdirs": [str(workdir) for workdir in workdirs],
  }
  tables.write(workdirs, primitives, made, assigned, summary)
  if not (home / edits.FILE).exists():
    write_atomic(home / edits.FILE, (",".join(edits.HEADER) + "\n").encode())
  return home


def _primitives(home, counts: Counter, embedder: Embedder, threshold: float) -> None:
  # The most used phrase comes first and stands for its near-duplicates.
  ordered = sorted(counts, key=lambda phrase: (-counts[phrase], phrase))
  vectors = _embed(embedder, ordered)
  with tqdm(total=len(ordered), desc="near-duplicates", unit="phrase") as bar:
    parent, cosine = duplicates.representatives(vectors, threshold, bar.update)
  kept, primitive_id = np.unique(parent, return_inverse=True)
  phrases = pd.DataFrame(
    {
      "phrase": ordered,
      "count": [counts[phrase] for phrase in ordered],
      "primitive_id": primitive_id,
      "cosine": cosine,
      "stands": parent == np.arange(len(parent)),
    }
  )
  write_parquet(home / "phrases.parquet", phrases)
  with (home / "vectors.npy").open("wb") as file:
    np.save(file, vectors[kept])


def _embed(embedder: Embedder, texts: list[str]) -> np.ndarray:
  parts = []
  with tqdm(total=len(texts), desc="embed", unit="phrase") as bar:
    for start in range(0, len(texts), _EMBED):
      part = texts[start : start + _EMBED]
      parts.append(embedder.embed(part))
      bar.update(len(part))
  return np.concatenate(parts)


def _topics(home, phrases: list[str], vectors, settings: Settings) -> None:
  logging.info("clustering %d primitives", len(phrases))
  found = topics.find(
    phrases,
    vectors,
    seed=settings.seed,
    min_topic_size=settings.min_topic_size,
    stability_seeds=settings.stability_seeds,
  )
  write_parquet(
    home / "topics.parquet",
    pd.DataFrame({"found": found.found, "topic": found.topic}),
  )
  text = json.dumps(
    {
      "keywords": found.keywords,
      "outliers": found.outliers,
      "min_topic_size": found.min_topic_size,
      "agreement": found.agreement,
    },
    ensure_ascii=False,
  )
  write_atomic(home / "topics.json", text.encode())


def _grouping(home, primitives, vectors, keywords, models: Models, settings) -> None:
  options = {"max_tokens": settings.max_tokens, "retries": settings.retries}
  labels = naming.label_topics(
    primitives, vectors, keywords, models.namer, home / "labels.json", **options
  )
  if not labels["named"].all():
    logging.warning(
      "%d topics are called by their most frequent phrase, the namer failed; the first "
      "error: %s",
      (~labels["named"]).sum(),
      labels.loc[~labels["named"], "error"].iloc[0],
    )
  weight = primitives.groupby("topic")["count"].sum().tolist()
  skills = naming.merge_labels(
    labels, weight, models.embedder, settings.label_duplicate
  )
  logging.info("%d topics are %d skills", len(labels), len(skills))
  meta, error = naming.organize(list(skills), models.namer, **options)
  if error:
    logging.warning("the namer made no meta-skills: %s", error)
  text = json.dumps(
    {
      "labels": labels["label"].tolist(),
      "unnamed": int((~labels["named"]).sum()),
      "skills": skills,
      "meta_skills": meta,
      "organizer_error": error,
    },
    indent=1,
    ensure_ascii=False,
  )
  write_atomic(home / "grouping.json", text.encode())


class _Stages:
  """Which stages are done, by a hash of all that they come from."""

  def __init__(self, home: epath.Path):
    self._home, self._path = home, home / "state.json"
    self._state = json.loads(self._path.read_text()) if self._path.is_file() else {}
    self._trail: list = []

  def run(
    self, name: str, inputs: list, files: list[str], make: Callable[[], None]
  ) -> None:
    """Makes `files`, unless they come from the same inputs and earlier stages."""
    self._trail.append([name, inputs])
    digest = hashlib.sha256(json.dumps(self._trail).encode()).hexdigest()
    self._trail = [digest]
    there = all((self._home / file).is_file() for file in files)
    if there and self._state.get(name) == digest:
      logging.info("%s: kept", name)
      return
    self._state.pop(name, None)
    make()
    self._state[name] = digest
    write_atomic(self._path, json.dumps(self._state, indent=1).encode())
