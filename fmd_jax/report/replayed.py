"""The page of a replay: two models' fresh answers to one suite, one file."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fmd_jax.report import pictures
from fmd_jax.report.parts import style, template, text_of

EXAMPLES = 60  # questions with pictures, of each change
_CHANGES = {
  "newly failing": lambda before, after: (before < 0.5) & (after >= 0.5),
  "fixed": lambda before, after: (before >= 0.5) & (after < 0.5),
  "still failing": lambda before, after: (before >= 0.5) & (after >= 0.5),
}


def build_replay(
  target: str | os.PathLike,
  *,
  table: Sequence[Mapping[str, Any]],
  questions: pd.DataFrame,
  folder: str | os.PathLike,
  facts: Mapping[str, str],
  sentence: str,
) -> str:
  """Writes one HTML file that needs no other.

  Args:
    target: path of the page.
    table: of `metrics.changes`.
    questions: image_id, question, reference, discovered, now, before, after, compared.
    folder: whose `images/` has the pictures.
    facts: what the page says of models, suite and settings.
    sentence: the result.

  Returns:
    The path.
  """
  text = template("replay.html").render(
    style=style(),
    table=table,
    facts=facts,
    sentence=sentence,
    changes=_examples(questions, pathlib.Path(folder)),
    left_out=int((~questions["compared"]).sum()),
  )
  target = pathlib.Path(target)
  target.parent.mkdir(parents=True, exist_ok=True)
  temporary = target.with_suffix(".tmp")
  temporary.write_text(text, encoding="utf-8", errors="replace")
  temporary.replace(target)
  return str(target)


def _examples(questions: pd.DataFrame, folder: pathlib.Path) -> list[dict[str, Any]]:
  """Questions of each change, those that changed most first, with their pictures."""
  rows = questions[questions["compared"]]
  size = (rows["after"] - rows["before"]).abs()
  rows = rows.iloc[size.argsort(kind="stable")[::-1]]
  out = []
  for name, fits in _CHANGES.items():
    own = rows[fits(rows["before"], rows["after"])]
    cards = []
    for row in own.head(EXAMPLES).to_dict("records"):
      card = {key: text_of(row[key]) for key in ("reference", "discovered", "now")}
      card |= {"question": row["question"], "image_id": row["image_id"]}
      card |= {"before": row["before"], "after": row["after"]}
      card["picture"] = pictures.picture(folder, row["image_id"])
      cards.append(card | {"group": ", ".join(row["groups"])})
    out.append({"name": name, "count": len(own), "cards": cards})
  return out
