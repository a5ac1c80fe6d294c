"""The seven data sets of the paper's SFT baseline: what they are and how rows are read.

Licences and revisions were collected from the publishers' pages and from projects that
pin them; no hub was at hand to check them against. All seven are benchmarks: a model
that was fine-tuned on one can't be measured by it any more. Only questions are read,
never answers.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fmd_jax.data import huggingface
from fmd_jax.data.corpora.corpus import Origin
from fmd_jax.data.pictures import Raw


class Row(NamedTuple):
  """One picture with what is asked about it, or why it is left out."""

  label: str
  read: Callable[[], Raw]
  texts: tuple[str, ...]
  why_not: str = ""


@dataclasses.dataclass(frozen=True)
class Published:
  """One data set.

  Attributes:
    origin: licence and revision.
    files: what to download of the hub's repository; shell patterns.
    rows: folder -> its rows.
    prepare: what is left to do after the download, "" for nothing.
  """

  origin: Origin
  files: tuple[str, ...]
  rows: Callable[[pathlib.Path], Iterator[Row]]
  prepare: str = ""

  def cure(self, folder: str) -> str:
    """The command that brings the files into a folder."""
    patterns = " ".join(f"--include '{pattern}'" for pattern in self.files)
    command = (
      f"hf download {self.origin.repository} --repo-type dataset "
      f"--revision {self.origin.revision} {patterns} --local-dir {folder or 'DIR'}"
    )
    return command + (f" && {self.prepare}" if self.prepare else "")


# What a row is: the column of its picture, its questions, and why it is left out or "".
Convert = Callable[[Mapping[str, Any]], tuple[str, list[str], str]]


def _parquet(
  folder: pathlib.Path,
  pattern: str,
  convert: Convert,
) -> Iterator[Row]:
  """Rows of the Parquet files of a pattern."""
  for path in sorted(folder.glob(pattern)):
    place = path.relative_to(folder).as_posix()
    rows = huggingface.undecoded(huggingface.load_parquet([path]))
    for index, row in enumerate(rows):
      column, texts, why_not = convert(row)
      # Read again when it is asked for: all pictures of a set are gigabytes.
      cells = rows.select_columns([column])

      def read(cells=cells, column=column, index=index, stem=path.stem) -> Raw:
        return huggingface.picture(cells[index][column], f"{stem}_{index:06d}", folder)

      yield Row(f"{place}[{index}]", read, tuple(texts), why_not)


def _single_image(row: Mapping[str, Any]):
  """image_1, unless there is an image_2 too."""
  several = row.get("image_2") is not None
  return "image_1", [row["question"]], "it has several images" if several else ""


def _blink(folder):
  # The answers of `test` are withheld, its questions are not.
  return _parquet(folder, "*/*.parquet", _single_image)


def _mmmu_pro(folder):
  # One of three renderings of the same questions; in `vision` they are in the picture.
  pattern = "standard (10 options)/*.parquet"
  return _parquet(folder, pattern, _single_image)


# Types whose questions are answered in a word or two; the others want a table, boxes,
# a whole page.
_OCR_TYPES = (
  "APP agent en",
  "ASCII art classification en",
  "cognition VQA en",
  "diagram QA en",
  "document classification en",
  "math QA en",
  "reasoning VQA en",
  "science QA en",
  "text counting en",
)


def _ocrbench_v2(folder):
  def convert(row):
    kind = row["type"]
    why_not = "" if kind in _OCR_TYPES else f"its type is {kind!r}"
    return "image", [row["question"]], why_not

  return _parquet(folder, "data/*.parquet", convert)


def _chartqapro(folder):
  def convert(row):
    asked = list(row["Question"])
    # Later turns of a conversation say "it" and "that year".
    if row["Question Type"] == "Conversational":
      asked = asked[:1]
    return "image", asked, "it needs its paragraph" if row.get("Paragraph") else ""

  return _parquet(folder, "data/*.parquet", convert)


def _vstar(folder):
  for number, line in enumerate(_lines(folder / "test_questions.jsonl"), 1):
    row = json.loads(line)
    yield _file_row(folder, row["image"], row["text"], f"line {number}")


def _mmvp(folder):
  with (folder / "Questions.csv").open(encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
      # By its number, not by its place: the files sort as 1, 10, 100, 101, ….
      number = next(iter(row.values()))
      path = f"MMVP Images/{number}.jpg"
      yield _file_row(folder, path, row["Question"], f"Questions.csv {number}")


def _corecognition(folder):
  with (folder / "CoreCognition.csv").open(encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
      images = [name.strip() for name in row["images"].split(";") if name.strip()]
      why_not = ""
      if row["videos"].strip():
        why_not = "it is about a video"
      elif len(images) != 1:
        why_not = f"it has {len(images)} images"
      path = f"media/{images[0]}" if images else ""
      found = _file_row(folder, path, row["question"], f"CoreCognition.csv {row['id']}")
      yield found._replace(why_not=why_not)


def _file_row(folder: pathlib.Path, path: str, text: str, label: str) -> Row:
  return Row(label, lambda: Raw(path, (folder / path).read_bytes()), (text,))


def _lines(path: pathlib.Path) -> list[str]:
  return [line for line in path.read_text("utf-8").splitlines() if line.strip()]


def _origin(name, repository, licence, revision, noncommercial=False) -> Origin:
  return Origin(name, licence, revision, repository, noncommercial)


PUBLISHED = {
  "blink": Published(
    _origin(
      "BLINK", "BLINK-Benchmark/BLINK", "apache-2.0",
      "a3666eb249237ba3d5eca8db21176cc47967e040",
    ),
    ("*/*.parquet",),
    _blink,
  ),
  "vstar": Published(
    _origin(
      "V*Bench", "craigwu/vstar_bench", "unstated (its code is MIT)",
      "d9ae62c903da0c98336e85c5ee89cd863b04b4da", noncommercial=True,
    ),
    ("test_questions.jsonl", "*/*.jpg", "*/*.png"),
    _vstar,
  ),
  "corecognition": Published(
    # Its repository is gated, and no pin of it was found: the archive has a date.
    _origin(
      "CoreCognition 20250622", "williamium/CoreCognition", "apache-2.0", "main"
    ),
    ("CoreCognition_20250622.zip",),
    _corecognition,
    "unzip CoreCognition_20250622.zip, and name the folder of CoreCognition.csv",
  ),
  "mmvp": Published(
    _origin(
      "MMVP", "MMVP/MMVP", "mit", "37eafecab8a3940c50c2ade5b36de69dbc99a8cf"
    ),
    ("Questions.csv", "MMVP Images/*"),
    _mmvp,
  ),
  "mmmu_pro": Published(
    _origin(
      "MMMU-Pro", "MMMU/MMMU_Pro", "apache-2.0",
      "563f3e84bb3b90893083a1f039cfa13077f2302b",
    ),
    ("standard (10 options)/*.parquet",),
    _mmmu_pro,
  ),
  "ocrbench_v2": Published(
    _origin(
      "OCRBench v2", "ling99/OCRBench_v2",
      "mit on its card; its authors' page: research only, not for commercial use",
      "c7e7cdf23bdb6774661e9b0caf0d9935a42feb8b", noncommercial=True,
    ),
    ("data/*.parquet",),
    _ocrbench_v2,
  ),
  "chartqapro": Published(
    _origin(
      "ChartQAPro", "ahmed-masry/ChartQAPro", "mit",
      "e27c2874825874d6767d2bbc538ed4f0dc2c64c2",
    ),
    ("data/*.parquet",),
    _chartqapro,
  ),
}  # fmt: skip
