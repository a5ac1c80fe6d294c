"""ConMe's prompts, after Huang et al. 2024 (arXiv 2406.08164), for open questions.

Theirs ask for ten questions with answers and negatives and show several models at once;
here one target answers K open questions a turn, in the response format of all methods.
What the target said is JSON-quoted: it is data.
"""

import json
from collections.abc import Sequence
from typing import Any

VERSION = "conme/1"
Messages = list[dict[str, Any]]

_SYSTEM = (
  "You look for questions about an image that a vision-language model answers wrongly."
)
_DESCRIBE = (
  "Describe this image in detail: every object, its attributes, where it is and how it "
  "relates to the others."
)
_RULES = (
  "Each question must be grammatical, ask one thing only, need the image, and have one "
  "clear answer. Write question i as <response_i>question</response_i>."
)
_COMPARE = """You described this image: {own}
The model described it: {theirs}
Ask {k} questions about what is in your description and missing from the model's. \
Only include questions whose answer you are confident in. {rules}"""
_HARDER = """The model answered: {answers}
Ask {k} new questions about this image that it would find even more challenging, \
given what it got wrong or only guessed. {rules}"""


def _user(text: str) -> dict[str, Any]:
  content = [{"type": "image"}, {"type": "text", "text": text}]
  return {"role": "user", "content": content}


def describe() -> Messages:
  """Asks questioner and target alike what they see."""
  return [_user(_DESCRIBE)]


def compare(k: int, own: str, theirs: str) -> Messages:
  """The first turn: both descriptions, and K questions about what is missing."""
  text = _COMPARE.format(k=k, own=_quoted(own), theirs=_quoted(theirs), rules=_RULES)
  return [{"role": "system", "content": _SYSTEM}, _user(text)]


def harder(
  first: Messages,
  k: int,
  response: str,
  questions: Sequence[str | None],
  answers: Sequence[str],
) -> Messages:
  """The second turn: what was asked and answered, and K harder questions.

  Args:
    first: the messages of the first turn.
    k: questions to ask.
    response: the questions of the first turn, in their format.
    questions: the same one by one, None where a slot was not filled.
    answers: what the target said to them.
  """
  said = [
    {"question": question, "answer": answer}
    for question, answer in zip(questions, answers, strict=True)
    if question is not None
  ]
  text = _HARDER.format(k=k, answers=_quoted(said), rules=_RULES)
  return [
    *first,
    {"role": "assistant", "content": response},
    {"role": "user", "content": [{"type": "text", "text": text}]},
  ]


def _quoted(data: Any) -> str:
  return json.dumps(data, ensure_ascii=False)
