"""A benchmark's question text -> free questions, as the questioner is to ask them."""

import re

LONGEST = 300  # characters; a longer one is a problem to solve rather than a question

_MARKUP = re.compile(
  r"<image[ _-]?\d*>|<image-placeholder:[^>]*>|\[/?INST\]|</?(?:b|i|p|br) ?/?>", re.I
)
# Two markers in order, "(A) … (B) …" or "A. … B. …": one may be part of the question.
_OPTIONS = re.compile(
  r"(?:\n\s*(?:options|choices)\s*:|(?:^|\s)\(?a[).:]\s(?=.*\s\(?b[).:]\s))",
  re.I | re.S,
)
_NEEDS_OPTIONS = re.compile(
  r"\b(?:which|what|who|select|choose|pick)\b[^?]*"
  r"\b(?:the following|(?:of|from|among) (?:these|the (?:options|choices))|"
  r"(?:given|listed|provided) (?:options|choices|answers)|(?:option|choice)s? below)",
  re.I,
)
_NEEDS_ELSEWHERE = re.compile(
  r"\b(?:(?:first|second|third|fourth|other|two|three|four|both) (?:image|picture)s?|"
  r"image [2-9]|images|video|paragraph|passage)\b",
  re.I,
)
# Of every hundred letters; a photographed Greek word in a question is no reason.
_FOREIGN = 0.1


def free_question(text: str) -> tuple[str, str]:
  """The question that is left without options, instructions and markup.

  Args:
    text: as a benchmark has it.

  Returns:
    (question, ""), or ("", why it can't be asked of one image without options).
  """
  text = _MARKUP.sub(" ", text)
  text = " ".join(_OPTIONS.split(text, maxsplit=1)[0].split())
  # What follows the last question mark is an instruction how to answer.
  text = text[: text.rfind("?") + 1].strip()
  if not text:
    return "", "it asks nothing that ends in a question mark"
  letters = [c for c in text if c.isalpha()]
  if sum(not c.isascii() for c in letters) > _FOREIGN * len(letters):
    return "", "it is not in English"
  if len(text) > LONGEST:
    return "", f"it is longer than {LONGEST} characters"
  if _NEEDS_OPTIONS.search(text):
    return "", "it asks about its options"
  if _NEEDS_ELSEWHERE.search(text):
    return "", "it asks about more than one image"
  return text, ""
