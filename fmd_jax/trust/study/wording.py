"""What annotators are told: the rules of a valid question, in plain words."""

from typing import NamedTuple

from fmd_jax import types

INSTRUCTION = (
  "First decide whether the question is a fair one about this picture. Only if it is, "
  "decide whether the model's answer is correct."
)


class Rule(NamedTuple):
  """One of the four criteria.

  Attributes:
    title: when it is broken, in a few words.
    text: the same, explained.
  """

  title: str
  text: str


_RULES = (
  Rule("Not a proper question", "Words are missing, doubled or jumbled"),
  Rule("More than one question", "It asks several things at once"),
  Rule(
    "Not about what is visible",
    "The picture does not tell, or the thing asked about is not there, or the question "
    "gives its own answer away",
  ),
  Rule(
    "No single right answer",
    "It is a matter of opinion, or it could mean several things in the picture",
  ),
)
CRITERIA: dict[str, Rule] = dict(zip(types.CRITERIA, _RULES, strict=True))
FLAGS = {
  "cannot_tell": "I cannot tell",
  "picture": "The picture is missing or broken",
  "offensive": "Offensive or private content",
}
