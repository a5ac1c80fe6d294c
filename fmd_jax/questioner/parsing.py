"""One response -> its question slots; jax-free, and it never guesses."""

import re

# A second opening tag of the same slot starts it anew. Matches do not overlap, so
# that no text serves two slots.
_SLOT = re.compile(
  r"<response_(?P<slot>[1-9]\d{0,3})>"
  r"(?P<text>(?:(?!<response_(?P=slot)>).)*?)"
  r"</response_(?P=slot)>",
  re.DOTALL,
)
_MARKUP = re.compile(r"<\|[^<>]*?\|>|</?response(?:_\d*)?>")
_END_OF_REASONING = "</think>"


def slot_spans(text: str, k: int) -> list[tuple[int, int] | None]:
  """Where each slot's question stands in a response.

  Args:
    text: the decoded response.
    k: K, the slots asked for.

  Returns:
    K (start, end) pairs of characters between the tags, None where a slot is missing.
    The first closed pair of tags of a slot counts; other slots are ignored; anything
    up to `</think>` is reasoning.
  """
  spans: list[tuple[int, int] | None] = [None] * k
  start = text.rfind(_END_OF_REASONING) + 1  # 0 when there is none
  for match in _SLOT.finditer(text, start):
    slot = int(match["slot"]) - 1
    if slot < k and spans[slot] is None:
      spans[slot] = match.span("text")
  return spans


def clean(text: str) -> str:
  """A question as other models may see it: no control tokens, no response tags.

  Whitespace becomes single spaces.
  """
  # To a fixed point: taking "<|x|>" out of "<|im_<|x|>end|>" makes another token.
  while (stripped := _MARKUP.sub("", text)) != text:
    text = stripped
  return " ".join(text.split())


def parse_response(text: str, k: int) -> list[str | None]:
  """The K questions of a response.

  Args:
    text: the decoded response.
    k: K, the slots asked for.

  Returns:
    K cleaned questions, None where a slot is missing or empty (unparsed).
  """
  return [
    (clean(text[slice(*span)]) or None) if span else None
    for span in slot_spans(text, k)
  ]
