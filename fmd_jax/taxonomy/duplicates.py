"""Near-duplicate texts, by the cosine of their embeddings, in bounded memory."""

import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

_ROWS = 1024  # compared at a time
_COLUMNS = 8192  # with so many: 32 MB of float32


# What says only that a phrase is a skill that takes looking. Each leaves a word.
_LEAD = re.compile(
  r"(?:(?:skills?|abilit(?:y|ies)|capacity|tasks?) (?:of|to|in|for)|basic|visual"
  r"|the|an?) (?=\S)"
)
_TAIL = re.compile(
  r"(?<=\S) (?:skills?|abilit(?:y|ies)|tasks?|in the (?:image|picture|photo))$"
)


def normalise(text: str) -> str:
  """Lower case, no punctuation around words, no words that any skill could have.

  "Basic colour naming skills." -> "colour naming"; nothing is normalised away.
  """
  text = re.sub(r"\W*\s\W*|^\W+|\W+$", " ", text.casefold()).strip()
  while found := _LEAD.match(text):
    text = text[found.end() :]
  while found := _TAIL.search(text):
    text = text[: found.start()]
  return text


def representatives(
  vectors: Float[np.ndarray, "N E"],
  threshold: float,
  progress: Callable[[int], None] = lambda rows: None,
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]:
  """Maps each row to the earlier row that stands for it, or to itself.

  Row by row: one whose cosine with the most similar representative so far is at least
  the threshold joins it; any other becomes a representative. So order is priority.
  Time is quadratic in the number of representatives at worst; memory is not.

  Args:
    vectors: [N, E], unit length.
    threshold: of the cosine; above 1 nothing is a duplicate.
    progress: called with the rows done since the last call.

  Returns:
    [N] the representative of each row, and the cosine with it (1 for itself).
  """
  n = len(vectors)
  parent, cosine = np.arange(n), np.ones(n, np.float32)
  kept = np.zeros_like(vectors)
  kept_rows = np.zeros(n, int)
  size = 0
  for start in range(0, n, _ROWS):
    block = vectors[start : start + _ROWS]
    best, place = _nearest(block, kept[:size])
    within = block @ block.T
    first = size
    for i in range(len(block)):
      # Representatives that this block has added stand at kept[first:size].
      own = kept_rows[first:size] - start
      if len(own):
        j = int(np.argmax(within[i, own]))
        if within[i, own[j]] > best[i]:
          best[i], place[i] = within[i, own[j]], first + j
      if best[i] >= threshold:
        parent[start + i], cosine[start + i] = kept_rows[place[i]], best[i]
      else:
        kept[size], kept_rows[size] = block[i], start + i
        size += 1
    progress(len(block))
  return parent, cosine


def _nearest(
  block: Float[np.ndarray, "R E"], kept: Float[np.ndarray, "K E"]
) -> tuple[Float[np.ndarray, "R"], Int[np.ndarray, "R"]]:
  """The cosine with the most similar kept row, and its place; -inf without any."""
  best = np.full(len(block), -np.inf, np.float32)
  place = np.zeros(len(block), int)
  for start in range(0, len(kept), _COLUMNS):
    cosines = block @ kept[start : start + _COLUMNS].T
    own = cosines.argmax(1)
    value = cosines[np.arange(len(block)), own]
    better = value > best
    best[better], place[better] = value[better], start + own[better]
  return best, place
