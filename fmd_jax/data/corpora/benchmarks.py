"""blink://, vstar://, …: the questions of a published benchmark, by image."""

import collections
import hashlib
import operator
import pathlib

from fmd_jax.data.corpora.corpus import Item
from fmd_jax.data.corpora.published import PUBLISHED, Published, Row
from fmd_jax.data.corpora.questions import free_question
from fmd_jax.data.options import parse_options
from fmd_jax.data.pictures import OPTIONS, Pictures
from fmd_jax.data.sources import Skipped


class Benchmark:
  """The usable questions of one data set.

  Left out, and named in `skipped`: rows of several images or of a video, questions
  that need their options, another image or a text beside it, and broken pictures.

  Args:
    kind: a key of `PUBLISHED`.
    location: the folder it was downloaded to; "" downloads it, at the revision that
      `PUBLISHED` names, to the cache of huggingface_hub.
    query: options as of all pictures: `limit`, `seed`, `max_pixels`.
    allow_noncommercial: see `open_corpus`.
  """

  def __init__(self, kind: str, location: str, query: str, allow_noncommercial: bool):
    options = parse_options(query, OPTIONS)
    published = PUBLISHED[kind]
    origin = published.origin
    if origin.noncommercial and not allow_noncommercial:
      raise ValueError(
        f"nothing allows commercial use of {origin.name} (licence: {origin.licence}); "
        "set allow_noncommercial if yours is none, or leave it out"
      )
    folder = pathlib.Path(location) if location else _download(published)
    if not folder.is_dir():
      raise FileNotFoundError(
        f"there is no folder {location!r}; get {origin.name} with: "
        + published.cure(location)
      )
    self.name = f"{kind}://{location}" + (f"?{query}" if query else "")
    self.origins = (origin,)
    rows, self._questions, skipped = _usable(_rows(published, folder))
    self._pictures = Pictures(
      self.name, rows, lambda row: row.read(), lambda row: row.label, options, skipped
    )
    self.skipped = self._pictures.skipped

  def __len__(self) -> int:
    return len(self._pictures)

  def __getitem__(self, index: int) -> Item:
    index = operator.index(index)
    asked = self._questions[self._pictures.key(index).label]
    return self._pictures[index], asked


def _download(published: Published) -> pathlib.Path:
  try:
    import huggingface_hub
  except ImportError as error:
    raise ValueError(
      f"downloading needs another package: pip install huggingface_hub ({error})"
    ) from None
  if published.prepare:
    raise ValueError(
      f"{published.origin.name} can't be used as it is downloaded: {published.cure('')}"
    )
  return pathlib.Path(
    huggingface_hub.snapshot_download(
      published.origin.repository,
      repo_type="dataset",
      revision=published.origin.revision,
      allow_patterns=list(published.files),
    )
  )


def _rows(published: Published, folder: pathlib.Path) -> list[Row]:
  try:
    rows = list(published.rows(folder))
  except FileNotFoundError as error:
    rows, missing = [], error.filename
  except KeyError as error:
    raise ValueError(
      f"its rows have no column {error}: is it revision {published.origin.revision} "
      f"of {published.origin.repository}?"
    ) from None
  else:
    missing = " or ".join(published.files)
  if not rows:
    raise FileNotFoundError(
      f"{missing} is not in {str(folder)!r}; get it with: {published.cure(str(folder))}"
    )
  return rows


def _usable(rows: list[Row]):
  """The first row of each picture, the questions of all its rows, and the rest."""
  first: dict[str, Row] = {}
  questions: dict[str, dict[str, None]] = collections.defaultdict(dict)
  skipped = []
  for row in rows:
    asked = [] if row.why_not else [free_question(text) for text in row.texts]
    reasons = [row.why_not] if row.why_not else [why for _, why in asked if why]
    skipped += [Skipped(row.label, why) for why in reasons]
    good = [text for text, why in asked if not why]
    if not good:
      continue
    try:
      content = hashlib.sha256(row.read().content).hexdigest()
    except (OSError, ValueError) as error:
      skipped.append(Skipped(row.label, str(error)))
      continue
    label = first.setdefault(content, row).label
    questions[label] |= dict.fromkeys(good)
  return list(first.values()), {k: tuple(v) for k, v in questions.items()}, skipped
