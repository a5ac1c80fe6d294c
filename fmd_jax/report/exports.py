"""The failures to take away: a dataset, conversations, and a task for lmms-eval."""

import json
import pathlib
from collections import Counter
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from etils import epath
from tqdm import tqdm

from fmd_jax import metrics
from fmd_jax.report import browser, failures, pictures, summary
from fmd_jax.report.parts import said, text_of
from fmd_jax.report.reading import Run, read_run

TEMPLATES = pathlib.Path(__file__).parent / "templates"
_ROWS = 100  # of a row group: what a reader holds in memory at once
_SHARD = 400_000_000  # bytes
_SKILLS = 30  # that the card lists
_STRINGS = ("key", "image_id", "question", "answer", "truth", "rationale")
_MARKS = str.maketrans({"|": "\\|", "\n": " ", "<": "&lt;", "`": "'"})

_SCHEMA = pa.schema(
  [
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    *((name, pa.string()) for name in _STRINGS),
    ("skills", pa.list_(pa.string())),
    ("method", pa.string()),
    ("split", pa.string()),
    ("step", pa.int64()),
  ]
)


class Found(NamedTuple):
  """What is exported: rows sorted by picture; failures over the limit."""

  rows: pd.DataFrame
  capped: int
  without_picture: int


def export(
  workdir: epath.PathLike,
  target: epath.PathLike,
  max_failures: int = browser.MAX_FAILURES,
  tier: int = 1,
) -> dict[str, epath.Path]:
  """Writes the distinct failures of a run in three forms.

  `dataset/`: Parquet with the pictures inside and a card, for
  `datasets.load_dataset`. `conversations/`: JSON lines as LLaVA has them, pictures
  beside. `lmms_eval/<task>/`: asks the questions of `dataset/` again.

  Args:
    workdir: of a run with evaluations.
    target: a folder that is new or empty.
    max_failures: more are left out, by chance.
    tier: of the failures (`metrics.TIERS`).

  Returns:
    Form -> its folder.

  Raises:
    FileNotFoundError: the workdir has no run, or none of its failures a picture.
    FileExistsError: the target holds something.
  """
  run, target = read_run(workdir, tier), epath.Path(target)
  if target.exists() and any(target.iterdir()):
    raise FileExistsError(f"{target} is not empty; name a new folder")
  found = _found(run, max_failures)
  if not len(found.rows):
    raise FileNotFoundError(
      f"{run.folder} has no failure to export: no evaluated question that is valid, "
      "answered wrongly and has its picture in images/"
    )
  task = f"fmd_failures_{run.manifest.get('run_id', 'run')}"
  folders = {
    "dataset": target / "dataset",
    "conversations": target / "conversations",
    "lmms-eval task": target / "lmms_eval" / task,
  }
  for folder in folders.values():
    folder.mkdir(parents=True, exist_ok=True)
  files = _write_dataset(run, found.rows, folders["dataset"] / "data")
  card = _card(run, found, task)
  (folders["dataset"] / "README.md").write_text(card)
  _write_conversations(run, found.rows, folders["conversations"])
  _write_task(folders["lmms-eval task"], task, files, found.rows["truth"].notna().any())
  return folders


def _found(run: Run, max_failures: int) -> Found:
  if not len(run.evaluations):
    return Found(pd.DataFrame(), 0, 0)
  rows = failures.distinct_valid(run.evaluations)
  rows = rows[metrics.flags(rows)["failure"]]
  capped = max(0, len(rows) - max_failures)
  rows = rows.head(max_failures)  # they are in an order of chance
  known = {i: pictures.source(run.folder, i) is not None for i in set(rows["image_id"])}
  shown = rows[rows["image_id"].map(known).astype(bool)]
  without = len(rows) - len(shown)
  if without:
    logging.warning("%d failures are left out: their pictures are missing", without)
  if not len(shown):
    return Found(shown, capped, without)
  absent = [None] * len(shown)
  own = [list(s) if np.ndim(s) else [] for s in shown.get("skills", absent)]
  shown = shown.assign(
    truth=[text_of(truth) or None for truth in shown.get("truth", absent)],
    skills=pd.Series(own, index=shown.index, dtype=object),
    key=browser.keys(shown.assign(shown_as="wrong")),
  )
  # One picture's rows together: its copies compress to one.
  return Found(shown.sort_values(["image_id", "key"]), capped, without)


def _write_dataset(run: Run, rows: pd.DataFrame, folder: epath.Path) -> list[str]:
  """Parquet as `datasets` writes it; returns the names of the files."""
  folder.mkdir(exist_ok=True)
  schema = _SCHEMA.with_metadata({"huggingface": json.dumps(_features())})
  shards, writer, sink = [], None, None
  for at in tqdm(range(0, len(rows), _ROWS), desc="dataset", unit="batch"):
    if writer is None or sink.tell() > _SHARD:
      if writer is not None:
        writer.close()
        sink.close()
      shards.append(folder / f"shard-{len(shards):05d}.tmp")
      sink = shards[-1].open("wb")
      # One page holds a row group's pictures, so that copies are seen as copies.
      writer = pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=False, data_page_size=1 << 26
      )
    writer.write_table(_table(run, rows.iloc[at : at + _ROWS], schema))
  writer.close()
  sink.close()
  names = [f"test-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
  for shard, name in zip(shards, names, strict=True):
    shard.rename(folder / name)
  return names


def _table(run: Run, rows: pd.DataFrame, schema: pa.Schema) -> pa.Table:
  content = {
    image: {"bytes": _png(run, image), "path": f"{image}.png"}
    for image in set(rows["image_id"])
  }
  columns: dict[str, Any] = {name: rows[name].tolist() for name in schema.names[1:]}
  columns["image"] = [content[image] for image in rows["image_id"]]
  return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _png(run: Run, image_id: str) -> bytes:
  return pictures.source(run.folder, image_id).read_bytes()


def _features() -> dict[str, Any]:
  """What `datasets` reads from a Parquet file's metadata, so that images are images."""
  string = {"dtype": "string", "_type": "Value"}
  features: dict[str, Any] = {"image": {"_type": "Image"}}
  features |= dict.fromkeys(_STRINGS, string)
  # Releases before 4 know no "List"; later ones still read "Sequence".
  features["skills"] = {"feature": string, "_type": "Sequence"}
  features |= {"method": string, "split": string}
  features["step"] = {"dtype": "int64", "_type": "Value"}
  return {"info": {"features": features}}


def _write_conversations(run: Run, rows: pd.DataFrame, folder: epath.Path) -> None:
  (folder / "images").mkdir(exist_ok=True)
  for image in sorted(set(rows["image_id"])):
    (folder / "images" / f"{image}.png").write_bytes(_png(run, image))
  with (folder / "failures.jsonl").open("wb") as file:
    for row in rows.to_dict("records"):
      line = json.dumps(conversation(row), ensure_ascii=False)
      file.write(f"{line}\n".encode())


def conversation(row: dict[str, Any]) -> dict[str, Any]:
  """One failure as LLaVA, Qwen-VL and their kin read it.

  The turn of "gpt" is the truth, and is left out where that is not known: the answer
  that was given is wrong, and stands beside as `failed_answer`.
  """
  # A second mark would be a second picture to the reader of these lines.
  question = row["question"].replace("<image>", "image").replace("<video>", "video")
  turns = [{"from": "human", "value": f"<image>\n{question}"}]
  if row["truth"]:
    turns.append({"from": "gpt", "value": row["truth"]})
  return {
    "id": row["key"],
    "image": f"images/{row['image_id']}.png",
    "conversations": turns,
    "failed_answer": row["answer"],
    "rationale": text_of(row["rationale"]),
    "skills": row["skills"],
    "method": row["method"],
    "split": row["split"],
    "step": row["step"],
  }


def _write_task(
  folder: epath.Path, task: str, files: list[str], has_truth: bool
) -> None:
  text = (
    _environment()
    .get_template("lmms_eval/task.yaml")
    .render(
      task=task, has_truth=has_truth, files=[f"../../dataset/data/{f}" for f in files]
    )
  )
  (folder / f"{task}.yaml").write_text(text)
  scoring = (TEMPLATES / "lmms_eval" / "scoring.py").read_bytes()
  (folder / "scoring.py").write_bytes(scoring)


def _card(run: Run, found: Found, task: str) -> str:
  rows = found.rows
  counts = Counter(skill for own in rows["skills"] for skill in own)
  labels = {method.name: method.label for method in run.methods}
  return (
    _environment()
    .get_template("card.md")
    .render(
      answerer=_plain(run.model("answerer", "the model")),
      evaluator=_plain(run.model("evaluator", "a judge")),
      calibration=_plain(summary.calibration(run)["text"]),
      count=len(rows),
      images=rows["image_id"].nunique(),
      capped=found.capped,
      left_out=found.capped + found.without_picture,
      methods=", ".join(labels.get(name, name) for name in sorted(set(rows["method"]))),
      skills=[(_plain(name), n) for name, n in counts.most_common(_SKILLS)],
      task=task,
      run_id=run.manifest.get("run_id", "unknown"),
      version=run.manifest.get("packages", {}).get("fmd_jax", "unknown"),
    )
  )


def _plain(text: str) -> str:
  """A name inside Markdown, without what would mark it up."""
  return said(text).translate(_MARKS)


def _environment() -> jinja2.Environment:
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
