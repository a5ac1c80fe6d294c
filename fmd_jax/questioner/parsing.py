"""One response -> its question slots; jax-free, and it never guesses."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

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


def token_slots(
  tokens: Int[np.ndarray, "B G T"],
  lengths: Int[np.ndarray, "B G"],
  decode: Callable[[Sequence[int]], str],
  k: int,
) -> Int[np.ndarray, "B G T"]:
  """The slot whose question each sampled token spells, for credit per question.

  A slot's question is what `slot_spans` finds between its tags. A token that spells
  any character of it belongs to it, also when it spells a piece of a tag as well
  (Qwen may write ">What" or "?</" as one token): the question depends on that choice.

  Args:
    tokens: [B, G, T] responses.
    lengths: [B, G] tokens of each response.
    decode: token ids to text, control tokens left out, of a byte-level tokenizer.
    k: K, the slots asked for.

  Returns:
    int32 [B, G, T]; -1 for tags, the end token, text outside a slot and padding.
  """
  tokens, lengths = np.asarray(tokens), np.asarray(lengths)
  out = np.full(tokens.shape, -1, np.int32)
  for response in np.ndindex(lengths.shape):
    # Token by token: one that holds half a character then spells another text than it
    # does beside its other half, but never more or less of a tag.
    ids = tokens[response][: lengths[response]].tolist()
    texts = [decode([token]) for token in ids]
    ends = np.cumsum([len(text) for text in texts], dtype=int)
    starts = np.append(0, ends)[:-1]
    spans = slot_spans("".join(texts), k)
    for slot in reversed(range(k)):  # a token of two questions is the first's
      first, last = spans[slot] or (0, 0)
      own = np.maximum(starts, first) < np.minimum(ends, last)
      out[response][: len(ids)][own] = slot
  return out
