"""Corrections by hand: `taxonomy/edits.csv`, applied to the finished taxonomy.

  action,what,into
  rename,checking things,object presence       a skill gets another name
  merge,colour naming,hue recognition          a skill becomes part of another
  move,reading a sign,letter reading           a primitive goes to another skill
  meta,hue recognition,appearance              a skill goes to another meta-skill

Lines are applied from the top; one that starts with # is a comment. No model is asked.
"""

import csv
import difflib
import io
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath

FILE = "edits.csv"
HEADER = ("action", "what", "into")
ACTIONS = ("rename", "merge", "move", "meta")


class Edit(NamedTuple):
  line: int
  action: str
  what: str
  into: str


def read(path: epath.Path) -> list[Edit]:
  """Reads the edits; none when there is no file.

  Raises:
    ValueError: names the line and what is wrong with it.
  """
  if not path.is_file():
    return []
  text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
  lines = [
    (number, [cell.strip() for cell in row])
    for number, row in enumerate(csv.reader(text), 1)
    if row and any(row) and not row[0].startswith("#")
  ]
  if not lines or tuple(lines[0][1]) != HEADER:
    raise ValueError(f"{path}: the first line must be {','.join(HEADER)}")
  out = []
  for number, row in lines[1:]:
    if len(row) != 3 or not all(row):
      raise ValueError(f"{path}:{number}: three cells are needed, not {row}")
    if row[0] not in ACTIONS:
      raise ValueError(
        f"{path}:{number}: no action {row[0]!r}; one of {', '.join(ACTIONS)}"
      )
    out.append(Edit(number, *row))
  return out


def apply(
  edits: Iterable[Edit],
  skill_of: dict[str, str],
  meta_of: dict[str, str],
) -> tuple[dict[str, str], dict[str, str]]:
  """Applies edits.

  Args:
    edits: in order.
    skill_of: primitive (its phrase) -> skill.
    meta_of: skill -> meta-skill.

  Returns:
    Both, edited; a skill that has lost all its primitives is gone.

  Raises:
    ValueError: an edit names what isn't there; says what comes near.
  """
  skill_of, meta_of = dict(skill_of), dict(meta_of)
  for edit in edits:
    if edit.action == "move":
      _known(edit, edit.what, skill_of, "primitive")
      _known(edit, edit.into, meta_of, "skill")
      skill_of[edit.what] = edit.into
      continue
    _known(edit, edit.what, meta_of, "skill")
    if edit.action == "meta":
      meta_of[edit.what] = edit.into
      continue
    if edit.action == "merge":
      _known(edit, edit.into, meta_of, "skill")
      if edit.what == edit.into:
        raise ValueError(f"edits, line {edit.line}: merges {edit.what!r} with itself")
    elif edit.into in meta_of:
      raise ValueError(
        f"edits, line {edit.line}: there is a skill {edit.into!r} already; to make "
        f"them one write merge,{edit.what},{edit.into}"
      )
    else:
      meta_of[edit.into] = meta_of[edit.what]
    del meta_of[edit.what]
    skill_of = {
      phrase: edit.into if skill == edit.what else skill
      for phrase, skill in skill_of.items()
    }
  left = set(skill_of.values())
  return skill_of, {skill: meta for skill, meta in meta_of.items() if skill in left}


def _known(edit: Edit, name: str, there: Iterable[str], what: str) -> None:
  if name in there:
    return
  near = difflib.get_close_matches(name, list(there), n=1, cutoff=0.0)
  hint = f"; the nearest is {near[0]!r}" if near else ""
  raise ValueError(f"edits, line {edit.line}: there is no {what} {name!r}{hint}")
