"""After the run: an independent judge reads the records, and numbers are made of it.

records -> evaluations/*.parquet -> metrics.json
"""

import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
from absl import logging

from fmd_jax import evaluator, metrics, prompts
from fmd_jax.inference import Embedder, Generator, identity
from fmd_jax.progress import Progress
from fmd_jax.records.files import write_atomic
from fmd_jax.records.reader import methods, read
from fmd_jax.records.verdicts import KeptVerdicts
from fmd_jax.records.writer import write_parquet
from fmd_jax.types import CRITERIA, Answer, ImageExample, Question, Verdict
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.png import scene_of

PROTOCOLS = {"during": "train", "after": "heldout"}
_KEPT = [
  "method", "split", "step", "image_id", "response_index", "slot", "question",
  "prefix", "answer",
]  # fmt: skip
_BATCH = 512
_CENSUSES = pathlib.Path(__file__).parent / "testbed" / "assets"


def evaluate(
  workdir: pathlib.Path, judge: Generator, *, max_tokens: int, retries: int
) -> None:
  """Judges every recorded question and answer again, by another model.

  Writes `evaluations/<method>[_heldout].parquet`. A scene inside a testbed picture
  adds the true answer, the skills and the cells of each question.

  Args:
    workdir: of a run with records.
    judge: the evaluator.
    max_tokens: longest verdict.
    retries: of a verdict that doesn't parse.
  """
  for split in PROTOCOLS.values():
    for method in methods(workdir, split):
      rows = read(workdir, method, split).reset_index(drop=True)
      name = method if split == "train" else f"{method}_heldout"
      verdicts = list(_judged(workdir, judge, rows, name, max_tokens, retries))
      table = rows[_KEPT].copy()
      table["status"] = [v.status for v in verdicts]
      for column in (*CRITERIA, "valid", "correct"):
        values = [getattr(v, column) for v in verdicts]
        table[column] = pd.array(values, dtype="boolean")
      table["rationale"] = [v.rationale for v in verdicts]
      table["evaluator"] = [v.model for v in verdicts]
      known = [_annotate(workdir, row) for row in rows.itertuples()]
      for column, values in zip(("truth", "skills", "cells"), zip(*known), strict=True):
        table[column] = list(values)
      write_parquet(workdir / "evaluations" / f"{name}.parquet", table)


def _judged(workdir, judge, rows, name, max_tokens, retries) -> Iterator[Verdict]:
  limits = {"retries": retries, "max_tokens": max_tokens}
  prompt = prompts.version("evaluator")
  kept = KeptVerdicts(
    workdir / "evaluations" / "verdicts" / name,
    {"model": identity(judge), "prompt": prompt, **limits},
  )
  bar = Progress(total=len(rows), desc=f"evaluate {name}", unit="question")
  for part in _batched(list(rows.itertuples())):

    def ask(indices: list[int], part=part) -> list[Verdict]:
      items = [_item(workdir, part[i]) for i in indices]
      return evaluator.judge(judge, items, **limits)

    yield from kept.part([(r.image_id, r.question, r.answer) for r in part], ask)
    bar.update(len(part))
  bar.close()
  kept.drop_others()


def _batched(rows: list) -> Iterator[list]:
  for at in range(0, len(rows), _BATCH):
    yield rows[at : at + _BATCH]


def _item(workdir, row) -> tuple[ImageExample, Question, Answer]:
  image = ImageExample(row.image_id, _png(workdir, row.image_id))
  asked = "ok" if row.question else "unparsed"
  question = Question(row.image_id, row.response_index, row.slot, row.question, asked)
  if isinstance(row.answer, str):
    return image, question, Answer(row.answer, row.answerer)
  return image, question, Answer("", row.answerer, "unscored", "no answer was recorded")


def _png(workdir: pathlib.Path, image_id: str) -> bytes:
  return (workdir / "images" / f"{image_id}.png").read_bytes()


def _annotate(workdir, row) -> tuple:
  """True answer, skills and cells, where the picture carries its scene."""
  scene = scene_of(_png(workdir, row.image_id))
  if scene is None or not row.question:
    return None, None, None
  known = judge_question(row.question, scene)
  return known.answer, list(known.skills), list(known.cells)


def measure(workdir: pathlib.Path, embedder: Embedder, seed: int) -> dict:
  """Makes `metrics.json` of the evaluations.

  Diversity is also given at one N: that of the method with the fewest valid questions
  of the protocol. Ratios and differences are against Zero Shot. Whether planted blind
  spots were found is told ("planted", else None) where the answerer has a census and
  the pictures carry their scenes.
  """
  census = shipped_census(workdir)
  tables = {
    (protocol, path.stem.removesuffix("_heldout")): pd.read_parquet(path)
    for protocol, split in PROTOCOLS.items()
    for path in sorted((workdir / "evaluations").glob("*.parquet"))
    if path.stem.endswith("_heldout") == (split == "heldout")
  }
  result: dict = {"methods": {}, "comparison": {}}
  for protocol in PROTOCOLS:
    own = {m: t for (p, m), t in tables.items() if p == protocol}
    valid = {m: t.loc[metrics.flags(t)["valid"], "question"] for m, t in own.items()}
    planted = {
      m: None if census is None else metrics.planted_truth(t, census)
      for m, t in own.items()
    }
    fewest = min((len(v) for v in valid.values()), default=0)
    for method, table in own.items():
      if table["skills"].isna().all():
        table = table.drop(columns=["skills"])
      vectors = embed_distinct(embedder, valid[method].tolist())
      summary = metrics.summarise(table, vectors, common_n=fewest or None, seed=seed)
      summary["planted"] = planted[method]
      result["methods"].setdefault(method, {})[protocol] = summary
      if method != "zero_shot" and "zero_shot" in own:
        against = {
          rate: metrics.compare(table, own["zero_shot"], rate, seed=seed)
          for rate in ("fdr", "qvr")
        }
        ratio = metrics.area_ratio(planted[method], planted["zero_shot"])
        result["comparison"].setdefault(method, {})[protocol] = {
          **against,
          "planted_area_ratio": ratio,
        }
  text = json.dumps(result, indent=2, allow_nan=False) + "\n"
  write_atomic(workdir / "metrics.json", text.encode())
  logging.info("wrote %s", workdir / "metrics.json")
  return result


def shipped_census(workdir: pathlib.Path) -> dict | None:
  """The census of the run's answerer: cell -> n, failures, rate, planted.

  None for a model that has none, and for another model of the name of one that has.
  """
  path = workdir / "manifest.json"
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


def embed_distinct(embedder: Embedder, texts: list[str]) -> np.ndarray | None:
  """[N, E] float32 of N texts, each distinct one embedded once; None for no texts."""
  if not texts:
    return None
  distinct = sorted(set(texts))
  parts = [
    embedder.embed(distinct[at : at + _BATCH]) for at in range(0, len(distinct), _BATCH)
  ]
  place = {text: i for i, text in enumerate(distinct)}
  return np.concatenate(parts)[[place[text] for text in texts]]
