"""What the browser of failures knows: every failure, and samples of the rest.

Columns instead of rows, and each text once: 20 000 failures open in a moment.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from markupsafe import Markup

from fmd_jax import metrics
from fmd_jax.report import confirmed, failures, pictures
from fmd_jax.report.parts import said, text_of
from fmd_jax.report.reading import Run
from fmd_jax.types import CRITERIA

MAX_FAILURES = 50_000  # a page that a browser still scrolls
SAMPLE = 300  # of each other status, to see how the judge judges
STATUSES = ("wrong", "right", "invalid", "unscored", "unparsed")
JUDGED = (*CRITERIA, "correct")
_SAME = ["method", "image_id", "question", "shown_as"]
_LONG = 4_000  # characters of a text
_PREFIXES = 100  # that the filter offers
_WHY = re.compile(rf"^({'|'.join(JUDGED)}): ", re.MULTILINE)


def shown(rows: pd.DataFrame, max_failures: int) -> tuple[pd.DataFrame, int]:
  """The rows of the browser: each (method, image, question, status) once.

  Args:
    rows: of `evaluations/`.
    max_failures: more are left out, by chance.

  Returns:
    Rows in an order of chance with the added columns `shown_as` (of `STATUSES`),
    `key` (of the permalink) and `times` (how often it was asked); and how many
    failures there are, shown or not.
  """
  flags = metrics.flags(rows)
  kinds = np.select(
    [flags["failure"], flags["valid"], flags["unscored"], flags["unparsed"]],
    ["wrong", "right", "unscored", "unparsed"],
    "invalid",
  )
  rows = rows.assign(shown_as=kinds).sort_values("step", kind="stable")
  rows["times"] = rows.groupby(_SAME, sort=False)["step"].transform("size")
  rows = rows.drop_duplicates(_SAME)
  rows["key"] = keys(rows)
  rows = rows.sort_values("key", kind="stable")
  found = int((rows["shown_as"] == "wrong").sum())
  limits = dict.fromkeys(STATUSES, SAMPLE) | {"wrong": max_failures}
  place = rows.groupby("shown_as").cumcount()
  return rows[place < rows["shown_as"].map(limits)], found


def keys(rows: pd.DataFrame) -> list[str]:
  """The permalink of each row: the same whenever the report is made again."""
  texts = map("\n".join, rows[_SAME].astype(str).itertuples(index=False))
  return [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]


def data(rows: pd.DataFrame, run: Run, addresses: dict[str, str]) -> dict[str, Any]:
  """The content of the browser as plain lists.

  Args:
    rows: from `shown`.
    run: whose methods and taxonomy they are of.
    addresses: where the picture of each image_id is.
  """
  images, methods, statuses = (
    _places(names)
    for names in (addresses, [method.name for method in run.methods], STATUSES)
  )
  asked = Counter(rows.loc[rows["shown_as"] == "wrong", "prefix"])
  prefixes = _places(name for name, _ in asked.most_common(_PREFIXES))
  own = [list(s) if np.ndim(s) else [] for s in rows.get("skills", [None] * len(rows))]
  skills = _places(sorted({skill for some in own for skill in some}))
  whys = [_whys(text_of(value)) for value in rows["rationale"]]
  text: dict[str, int] = {}

  def texts(values: Iterable[Any]) -> list[int]:
    known = (said(text_of(value), _LONG) for value in values)
    return [text.setdefault(value, len(text)) for value in known]

  columns = {
    "key": rows["key"].tolist(),
    "status": [statuses[kind] for kind in rows["shown_as"]],
    "image": [images[image] for image in rows["image_id"]],
    "question": texts(rows["question"]),
    "answer": texts(rows["answer"]),
    "truth": texts(rows.get("truth", [""] * len(rows))),
    "method": [methods[name] for name in rows["method"]],
    "heldout": [int(split == "heldout") for split in rows["split"]],
    "step": rows["step"].tolist(),
    "times": rows["times"].tolist(),
    "prefix": [prefixes.get(prefix, -1) for prefix in rows["prefix"]],
    "skills": [[skills[skill] for skill in some] for some in own],
    "verdict": texts(_verdicts(rows)),
    "note": texts(why.pop("", "") for why in whys),
  }
  again = confirmed.columns(rows, run)
  columns |= {"tier": again["tier"], "found": texts(again["found"])}
  for name in JUDGED:
    columns[f"why_{name}"] = texts(why.get(name, "") for why in whys)
  return {
    "statuses": STATUSES,
    "judged": JUDGED,
    "methods": [[method.label, method.kind] for method in run.methods],
    "skills": [said(skill) for skill in skills],
    "groups": [said(group) for group in _meta_skills(run, skills)],
    "tiers": [
      "asked once",
      *(f"{tier}: {name}" for tier, name in metrics.TIERS.items()),
    ],
    "prefixes": [said(prefix) for prefix in prefixes],
    "images": [addresses[image] for image in images],
    "names": [said(image) for image in images],
    "text": list(text),
    "columns": columns,
  }


def embed(content: dict[str, Any]) -> Markup:
  """JSON that is safe inside a `<script>` element, whatever its texts hold."""
  text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
  # Only "<" could end the element or open a comment in it; the others are for
  # readers that take the page for XML, and for JavaScript before 2019.
  for character in "<>&\u2028\u2029":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return Markup(text)


def make(run: Run, target: epath.Path, max_failures: int) -> dict[str, Any]:
  """What the template needs of the browser; `{}` when nothing was judged.

  Args:
    run: of which workdir.
    target: folder of the page, for pictures that are too many to be inside.
    max_failures: that are shown.
  """
  if not len(run.evaluations):
    return {}
  rows, found = shown(run.evaluations, max_failures)
  ids = sorted(set(rows["image_id"]))
  addresses = dict(zip(ids, pictures.place(run.folder, ids, target), strict=True))
  count = int((rows["shown_as"] == "wrong").sum())
  return {
    "json": embed(data(rows, run, addresses)),
    "count": count,
    "left_out": found - count,
    "sampled": len(rows) - count,
    "has_skills": failures.knows_skills(run.evaluations),
  }


def _places(names: Iterable[str]) -> dict[str, int]:
  return {name: place for place, name in enumerate(names)}


def _verdicts(rows: pd.DataFrame) -> list[str]:
  """One letter a criterion: y, n, or - where it was not judged."""
  letters = [
    [{True: "y", False: "n"}.get(value, "-") for value in rows[name].tolist()]
    for name in JUDGED
  ]
  return ["".join(own) for own in zip(*letters, strict=True)]


def _whys(rationale: str) -> dict[str, str]:
  """criterion -> why; what comes before the first criterion is at ""."""
  first, *parts = _WHY.split(rationale)
  found = {"": first.strip()}
  found |= {name: why.strip() for name, why in zip(parts[::2], parts[1::2])}
  return found


def _meta_skills(run: Run, skills: Iterable[str]) -> list[str]:
  """The meta-skill of each skill; "" where there is no taxonomy."""
  if run.taxonomy is None:
    return [""] * len(list(skills))
  table = run.taxonomy.skills
  known = dict(zip(table["skill"], table["meta_skill"], strict=True))
  return [text_of(known.get(skill)) for skill in skills]
