"""Free text -> canonical answer: "It is red." -> "red", "three" -> "3"."""

import re

from fmd_jax.world.programs import Program
from fmd_jax.world.scenes import DIRECTIONS, LETTERS, VALUES

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
_SYNONYMS = {
  "big": "large",
  "little": "small",
  "tiny": "small",
  "violet": "purple",
  "filled": "solid",
  "stripes": "striped",
  "dots": "dotted",
  "polka-dotted": "dotted",
  "hollow": "outlined",
  "outline": "outlined",
  "yeah": "yes",
  "yep": "yes",
  "true": "yes",
  "nope": "no",
  "false": "no",
  "none": "0",
  "upward": "up",
  "upwards": "up",
  "downward": "down",
  "downwards": "down",
  "leftward": "left",
  "rightward": "right",
  "upper": "top",
  "lower": "bottom",
  "rhombus": "diamond",
  **{word: str(i) for i, word in enumerate(_NUMBERS)},
}
_PHRASES = (
  (r"\bnot true\b", "no"),
  (r"\bnot false\b", "yes"),
  (r"\bfilled with (?=.*(?:strip|dot))", "with "),
)
_NEGATIONS = ("not", "neither", "cannot")


def answer_type(program: Program) -> str:
  """What the answer is one of: yes_no, count, letter, direction, quadrant or an
  attribute's name."""
  match program.family:
    case "attribute" | "majority":
      return program.attribute
    case "count" | "negation":
      return "count"
    case "ocr":
      return "letter"
    case "orientation":
      return "direction"
    case "quadrant":
      return "quadrant"
    case _:
      return "yes_no"


def canonical(text: str, kind: str) -> str | None:
  """The one canonical answer of type `kind` in a free text.

  Returns:
    None when the text holds no such answer, several different ones, or a negated one.
  """
  text = text.replace("\u2019", "'")
  plain = text.lower().replace("n't", " not")
  for phrase, meaning in _PHRASES:
    plain = re.sub(phrase, meaning, plain)
  words = re.findall(r"[a-z0-9]+(?:-[a-z]+)?", plain)
  words = [part for w in words for part in _split(w)]
  if kind == "yes_no":
    return _single(w for w in words if w in ("yes", "no"))
  if any(w in _NEGATIONS for w in words):
    return None
  if kind == "count":
    return _single(str(int(w)) for w in words if w.isdigit())
  if kind == "letter":
    return _letter(text)
  if kind == "direction":
    return _single(w for w in words if w in DIRECTIONS)
  if kind == "quadrant":
    down = _single(w for w in words if w in ("top", "bottom"))
    side = _single(w for w in words if w in ("left", "right"))
    return f"{down} {side}" if down and side else None
  singular = (
    w[:-1] if w.endswith("s") and w[:-1] in VALUES[kind] else w for w in words
  )
  return _single(w for w in singular if w in VALUES[kind])


def _split(word: str) -> list[str]:
  if word in _SYNONYMS:
    return [_SYNONYMS[word]]
  return [_SYNONYMS.get(part, part) for part in word.split("-")]


def _single(found) -> str | None:
  distinct = set(found)
  return distinct.pop() if len(distinct) == 1 else None


def _letter(text: str) -> str | None:
  whole = re.sub(r"(?<=[A-Za-z])'[A-Za-z]+", "", text)  # "it's" holds no letter
  words = [w for w in re.findall(r"[A-Za-z]+", whole) if len(w) == 1]
  found = {w for w in words if w.isupper()} - {"A", "I"}
  if not found:  # "the letter x"
    found = {w.upper() for w in words if w.upper() in LETTERS}
  letter = _single(found)
  return letter if letter in LETTERS else None
