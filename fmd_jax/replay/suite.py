"""A suite as a folder: suite.json, questions.parquet, asks.parquet, images/.

suite.json names each file with its sha256, and has a hash of itself: a suite that was
changed, by one byte anywhere, is another suite and is refused.
"""

import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import pandas as pd

from fmd_jax.records.files import write_atomic
from fmd_jax.records.writer import write_parquet
from fmd_jax.types import ImageExample

FORMAT = 1
MIN_ASKS = 5
_QUESTIONS, _ASKS, _STATEMENT = "questions.parquet", "asks.parquet", "suite.json"


class SuiteError(ValueError):
  """A folder that is no suite, or no longer the suite that was made."""


class Suite(NamedTuple):
  """A frozen set of questions.

  Attributes:
    statement: format, version, created, run_id, answerer and judge (identities),
      prompts, asks (fresh answers to each question), seed, temperature, answer_tokens,
      judge_tokens, judge_retries, evaluator (the judge's spec), files (path -> sha256),
      hash (of all else).
    questions: id, image_id, image_sha256, question, reference (the true answer, or
      null), kind ("failure" or "guard": answered right in the run), groups (a list),
      tier (of a failure), discovered (the answer in the run; no part of a comparison).
    asks: the model's fresh answers: id, ask, answer, status, wrong (null where it is
      unscored), why.
    images: image_id -> the image.
  """

  statement: dict[str, Any]
  questions: pd.DataFrame
  asks: pd.DataFrame
  images: dict[str, ImageExample]


def write_suite(folder: str | os.PathLike, suite: Suite) -> dict[str, Any]:
  """Writes a suite, whole or not at all; returns its statement with files and hash.

  Raises:
    SuiteError: the folder is there, or there are fewer than `MIN_ASKS` fresh answers.
  """
  folder = pathlib.Path(folder)
  if folder.exists():
    raise SuiteError(f"{folder} is there: a suite is never changed, name a new folder")
  if suite.statement["asks"] < MIN_ASKS:
    raise SuiteError(
      f"{suite.statement['asks']} fresh answers to each question are too few to "
      f"compare with: at least {MIN_ASKS}"
    )
  partial = folder.with_name(f".{folder.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  write_parquet(partial / _QUESTIONS, suite.questions)
  write_parquet(partial / _ASKS, suite.asks)
  for image_id, image in suite.images.items():
    write_atomic(partial / "images" / f"{image_id}.png", image.png)
  statement = {"format": FORMAT, **suite.statement}
  statement["files"] = {
    path.relative_to(partial).as_posix(): _sha256(path)
    for path in sorted(partial.rglob("*"))
    if path.is_file()
  }
  statement["hash"] = _hash(statement)
  text = json.dumps(statement, indent=2, ensure_ascii=False) + "\n"
  write_atomic(partial / _STATEMENT, text.encode())
  partial.replace(folder)
  return statement


def read_suite(folder: str | os.PathLike) -> Suite:
  """Reads a suite.

  Raises:
    SuiteError: it is none, or a file was changed, taken away or added; names it.
  """
  folder = pathlib.Path(folder)
  path = folder / _STATEMENT
  if not path.is_file():
    raise SuiteError(f"{folder} is no suite: it has no {_STATEMENT}")
  try:
    statement = json.loads(path.read_text())
    same = statement["hash"] == _hash(statement)
    files = dict(statement["files"])
  except (ValueError, KeyError, TypeError) as error:
    raise SuiteError(f"{path} is damaged: {error!r}") from error
  if not same:
    raise SuiteError(f"{path} was changed: its hash is another")
  if statement["format"] != FORMAT:
    raise SuiteError(
      f"{path} has format {statement['format']}; this version of fmd_jax reads {FORMAT}"
    )
  for name, digest in files.items():
    if not (folder / name).is_file():
      raise SuiteError(f"{folder / name} is missing from the suite")
    if _sha256(folder / name) != digest:
      raise SuiteError(f"{folder / name} was changed: its hash is another")
  there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
  for name in sorted(there - {*files, _STATEMENT}):
    raise SuiteError(f"{folder / name} is no part of the suite")
  questions = pd.read_parquet(folder / _QUESTIONS)
  images = {
    image_id: ImageExample(image_id, (folder / f"images/{image_id}.png").read_bytes())
    for image_id in questions["image_id"].unique()
  }
  return Suite(statement, questions, pd.read_parquet(folder / _ASKS), images)


def _sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(statement: dict[str, Any]) -> str:
  rest = {key: value for key, value in statement.items() if key != "hash"}
  text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()
