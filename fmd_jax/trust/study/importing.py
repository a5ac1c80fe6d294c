"""Annotations of any form -> labels.csv, a row for each rater and question slot."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from fmd_jax.trust.scoring import KEY
from fmd_jax.trust.study.answers import Said, said
from fmd_jax.trust.study.folder import Study
from fmd_jax.trust.study.journal import latest

COLUMNS = [
  *KEY, "rater", "valid", "correct", "weight",
  "criterion", "flag", "comment", "seconds",
]  # fmt: skip


class Annotation(NamedTuple):
  """What a file says: `where` it stands there, for messages."""

  where: str
  rater: str
  item: str
  said: Said
  seconds: float | None = None


class Imported(NamedTuple):
  """The labels of some files.

  Attributes:
    labels: `COLUMNS`; what `trust.score` reads.
    items: how many of the study's items were labelled.
    raters: rater, annotations, invalid, flagged, seconds (their median).
    left_out: what was not taken -> how often: "skipped", "rejected", "not filled in".
  """

  labels: pd.DataFrame
  items: int
  raters: pd.DataFrame
  left_out: dict[str, int]


def read_labels(study: Study, files: Sequence[str | os.PathLike] = ()) -> Imported:
  """Reads annotations, checks them and says which slots they are about.

  Args:
    study: of which the annotations are.
    files: any of: annotations.jsonl of the study page; Label Studio's export as JSON;
      items.csv filled in (a rater left empty is the file's name); a results CSV as
      Mechanical Turk gave them, with Input.item. Empty: what the page gathered.

  Returns:
    A row for each rater and slot; raters under pseudonyms.

  Raises:
    ValueError: names file, row and value of what cannot be read, an item that is not of
      this study, or a rater who labelled an item twice.
    FileNotFoundError: a file is not there, or the page has gathered nothing yet.
  """
  if not files and not study.journal.is_file():
    raise FileNotFoundError(
      f"nobody has used the study page of {study.folder} yet: name a file with --from"
    )
  left_out: dict[str, int] = {}
  found: dict[tuple[str, str], Annotation] = {}
  known = {item.item for item in study.items}
  for path in map(pathlib.Path, files or [study.journal]):
    for one in _read(study, path, left_out):
      if one.item not in known:
        raise ValueError(f"{one.where}: {one.item!r} is no item of this study")
      before = found.setdefault((one.rater, one.item), one)
      if before is not one:
        raise ValueError(
          f"{one.where}: item {one.item} was labelled by {one.rater} before, in "
          f"{before.where}"
        )
  if not found:
    raise ValueError("there is no annotation in what was given")
  own = pd.DataFrame(
    {"item": one.item, "rater": one.rater, "seconds": one.seconds, **one.said.asdict()}
    for one in found.values()
  ).astype({"valid": "Int64", "correct": "Int64", "seconds": float})
  labels = study.key().merge(own, on="item").sort_values(["rater", *KEY])
  raters = own.assign(invalid=own["valid"] == 0, flagged=own["flag"] != "")
  raters = raters.groupby("rater", as_index=False).agg(
    annotations=("item", "size"),
    invalid=("invalid", "sum"),
    flagged=("flagged", "sum"),
    seconds=("seconds", "median"),
  )
  return Imported(
    labels[COLUMNS].reset_index(drop=True), own["item"].nunique(), raters, left_out
  )


def _read(study: Study, path: pathlib.Path, left_out) -> Iterator[Annotation]:
  if path.suffix == ".jsonl":
    return _of_page(path)
  if path.suffix not in (".json", ".csv"):
    raise ValueError(f"{path} is none of .jsonl, .json and .csv")
  text = path.read_text(encoding="utf-8-sig")
  if path.suffix == ".json":
    return _of_label_studio(study, path.name, text, left_out)
  reader = csv.DictReader(io.StringIO(text, newline=""))
  columns = reader.fieldnames or []
  read = _of_mturk if "WorkerId" in columns else _of_sheet
  return read(study, path, columns, _lines(reader), left_out)


def _lines(reader: csv.DictReader) -> Iterator[tuple[int, dict[str, str]]]:
  # The first row is the second line; a text of several lines makes it more.
  for row in reader:
    yield reader.line_num, row


def _count(left_out: dict[str, int], why: str) -> None:
  left_out[why] = left_out.get(why, 0) + 1


def _checked(where: str, fields: dict[str, Any]) -> Said | None:
  try:
    return said(fields)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None


def _needs(path: pathlib.Path, columns: Iterable[str], needed: Iterable[str]) -> None:
  missing = [name for name in needed if name not in columns]
  if missing:
    raise ValueError(
      f"{path} has no column {', '.join(missing)}; it has: {', '.join(columns)}"
    )


def _of_page(path: pathlib.Path) -> Iterator[Annotation]:
  for number, event in latest(path):
    own = _checked(f"{path.name} line {number}", event)
    if own is None:
      raise ValueError(f"{path.name} line {number}: it says nothing")
    yield Annotation(
      f"{path.name} line {number}",
      event["rater"],
      event["item"],
      own,
      event["seconds"],
    )


def _of_sheet(study, path, columns, rows, left_out) -> Iterator[Annotation]:
  _needs(path, columns, ("item", "valid", "correct"))
  for line, row in rows:
    where = f"{path.name} line {line}"
    own = _checked(where, row)
    if own is None:
      _count(left_out, "not filled in")
      continue
    rater = (row.get("rater") or "").strip() or path.stem
    yield Annotation(where, study.pseudonym(f"sheet {rater}"), row["item"].strip(), own)


def _of_mturk(study, path, columns, rows, left_out) -> Iterator[Annotation]:
  _needs(path, columns, ("WorkerId", "Input.item"))
  answers = ("Answer.valid", "Answer.taskAnswers")
  if not any(name.startswith(answers) for name in columns):
    raise ValueError(f"{path} has no column {' or '.join(answers)}")
  for line, row in rows:
    where = f"{path.name} line {line}"
    if (row.get("AssignmentStatus") or "").lower() == "rejected":
      _count(left_out, "rejected")
      continue
    own = _checked(where, _mturk_answer(where, row))
    if own is None:
      _count(left_out, "not filled in")
      continue
    rater = study.pseudonym(f"mturk {row['WorkerId'].strip()}")
    seconds = _number(where, row.get("WorkTimeInSeconds"))
    yield Annotation(where, rater, row["Input.item"].strip(), own, seconds)


def _mturk_answer(where: str, row: dict[str, str]) -> dict[str, Any]:
  """Answer.valid = "yes", or Answer.valid.yes = "true", or both as JSON in one cell."""
  given = {
    name.removeprefix("Answer."): text
    for name, text in row.items()
    if name and name.startswith("Answer.")
  }
  if given.get("taskAnswers"):
    try:
      (answers,) = json.loads(given["taskAnswers"])
      given |= answers.items()
    except (ValueError, AttributeError, TypeError):
      raise ValueError(
        f"{where}: Answer.taskAnswers is {given['taskAnswers']!r}; it is a JSON "
        "list of one object"
      ) from None
  out: dict[str, Any] = {}
  for name, value in given.items():
    radio, _, choice = name.partition(".")
    if isinstance(value, dict):  # {"yes": true, "no": false}
      chosen = [key for key, on in value.items() if on]
      out[name] = chosen[0] if chosen else ""
    elif choice:
      if str(value).lower() == "true":
        out[radio] = choice
    else:
      out[name] = value
  return out


def _of_label_studio(study, name: str, text: str, left_out) -> Iterator[Annotation]:
  try:
    tasks = json.loads(text)
  except ValueError as error:
    raise ValueError(f"{name} is no JSON: {error}") from None
  if not isinstance(tasks, list) or not all(
    isinstance(task, dict) and "data" in task for task in tasks
  ):
    raise ValueError(
      f"{name} is not a list of tasks with data and annotations: export as JSON, not "
      "JSON-MIN"
    )
  for place, task in enumerate(tasks, 1):
    item = task["data"].get("item")
    if not isinstance(item, str):
      raise ValueError(f"{name} task {place}: its data has no item")
    for one in task.get("annotations", []):
      where = f"{name} task {place} annotation {one.get('id', '?')}"
      if one.get("was_cancelled"):
        _count(left_out, "skipped")
        continue
      own = _checked(where, _label_studio_answer(one))
      if own is None:
        _count(left_out, "not filled in")
        continue
      who = one.get("completed_by")
      # A number, or the whole account with its mail address.
      who = who.get("id", who.get("email")) if isinstance(who, dict) else who
      if who is None:
        raise ValueError(f"{where}: completed_by is empty")
      rater = study.pseudonym(f"label_studio {who}")
      yield Annotation(where, rater, item, own, one.get("lead_time"))


def _label_studio_answer(annotation: dict[str, Any]) -> dict[str, Any]:
  out = {}
  for part in annotation.get("result", []):
    value = part.get("value", {})
    texts = value.get("choices") or value.get("text") or []
    texts = [texts] if isinstance(texts, str) else texts
    if texts:
      out[part.get("from_name")] = texts[0]
  return out


def _number(where: str, text: str | None) -> float | None:
  if not text:
    return None
  try:
    return float(text)
  except ValueError:
    raise ValueError(f"{where}: {text!r} is no number of seconds") from None
