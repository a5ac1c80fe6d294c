"""What one annotator says of one item, checked."""

import dataclasses
from typing import Any

from fmd_jax.trust.study.wording import CRITERIA, FLAGS

COMMENT = 2_000  # characters that are kept


@dataclasses.dataclass(frozen=True)
class Said:
  """An annotation.

  Attributes:
    valid: 1, 0, or None of a flagged item.
    criterion: of an invalid question, the rule that it breaks; "" when not told.
    correct: of a valid question, 1 or 0; None when not told.
    flag: why an item cannot be judged; "" of one that can.
    comment: in the annotator's words.
  """

  valid: int | None
  criterion: str = ""
  correct: int | None = None
  flag: str = ""
  comment: str = ""

  def asdict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


_WORDS = {
  "valid": {
    **dict.fromkeys(("1", "1.0", "valid", "yes", "true"), 1),
    **dict.fromkeys(("0", "0.0", "invalid", "no", "false"), 0),
  },
  "correct": {
    **dict.fromkeys(("1", "1.0", "correct", "right", "yes", "true"), 1),
    **dict.fromkeys(("0", "0.0", "incorrect", "wrong", "no", "false"), 0),
  },
}


def said(fields: dict[str, Any]) -> Said | None:
  """Reads the fields of an annotation as any form writes them.

  Args:
    fields: "valid" and "correct": 1, 0, "valid", "incorrect", "yes", "true" and the
      like; "criterion"; "flag"; "comment". Absent, None and "" are not told. What is
      said of the answer to an invalid or flagged question does not count.

  Returns:
    None when nothing is told.

  Raises:
    ValueError: a value is none of the possible; names it.
  """
  told = {
    name: "" if fields.get(name) is None else str(fields[name]).strip()
    for name in ("valid", "criterion", "correct", "flag", "comment")
  }
  if not any(told.values()):
    return None
  criterion, flag = told["criterion"].lower(), told["flag"].lower()
  if told["valid"].lower() == "flag":
    told["valid"], flag = "", flag or "cannot_tell"
  valid, correct = (_bit(name, told[name]) for name in ("valid", "correct"))
  if criterion and criterion not in CRITERIA:
    raise ValueError(_none_of("criterion", told["criterion"], CRITERIA))
  if flag and flag not in FLAGS:
    raise ValueError(_none_of("flag", told["flag"], FLAGS))
  if valid is None and not flag:
    raise ValueError("valid is empty: it can be 1 or 0, or else flag says why not")
  if flag and valid is not None:
    raise ValueError(f"valid is {told['valid']!r} and flag {flag!r}: it is one of them")
  return Said(
    valid,
    criterion if valid == 0 else "",
    correct if valid == 1 else None,
    flag,
    told["comment"][:COMMENT],
  )


def _bit(name: str, text: str) -> int | None:
  if text and text.lower() not in _WORDS[name]:
    raise ValueError(_none_of(name, text, (1, 0)))
  return _WORDS[name].get(text.lower())


def _none_of(name: str, text: str, options) -> str:
  return f"{name} is {text!r}; it can be {', '.join(map(str, options))} or empty"
