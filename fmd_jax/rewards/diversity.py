"""The two diversity terms of the reward: eq. 3 and eq. 4."""

import unicodedata
from collections.abc import Mapping

import numpy as np


def _is_punctuation(character: str) -> bool:
  return unicodedata.category(character)[0] in "PS"


def _strip(word: str) -> str:
  start, end = 0, len(word)
  while start < end and _is_punctuation(word[start]):
    start += 1
  while end > start and _is_punctuation(word[end - 1]):
    end -= 1
  return word[start:end]


def prefix(question: str, length: int = 2) -> str:
  """The first words of a question, by which lexical diversity counts.

  Args:
    question: any text.
    length: L of eq. 4, in whitespace words.

  Returns:
    The first `length` words, lower-cased, punctuation and symbols stripped from
    both ends of each (words of nothing else are skipped), joined by one space.
  """
  words = (_strip(word) for word in question.lower().split())
  return " ".join([word for word in words if word][:length])


def semantic(embedding: np.ndarray, bank: np.ndarray) -> float:
  """delta_emb = clip(1 - max cos(e, e'), 0, 1), eq. 3.

  Args:
    embedding: [E] of the question.
    bank: [N, E] of what it is compared with; N may be 0.

  Returns:
    A number in [0, 1]; 1 when there is nothing to compare with.
  """
  if not len(bank):
    return 1.0
  norms = np.linalg.norm(bank, axis=1) * np.linalg.norm(embedding)
  cosine = bank @ embedding / np.maximum(norms, np.finfo(np.float32).tiny)
  return float(np.clip(1.0 - cosine.max(), 0.0, 1.0))


def lexical_paper(text: str, counts: Mapping[str, int]) -> float:
  """delta_ifreq = 1 / (1 + count of the prefix in the global bank), eq. 4.

  Args:
    text: a prefix.
    counts: how often each prefix is in the bank.

  Returns:
    A number in (0, 1].
  """
  return 1.0 / (1.0 + counts.get(text, 0))


def lexical_relative(text: str, counts: Mapping[str, int]) -> float:
  """Ours: 1 / (1 + count of the prefix / mean count of a prefix in the bank).

  Eq. 4 with the count in units of the bank's mean, so equal to
  1 / (1 + share * number of distinct prefixes). Eq. 4 tends to 0 for every prefix as
  the bank grows; this one stays at 1/2 for a prefix as frequent as the mean, near 0
  for a dominating one and at 1 for a new one, whatever the size of the bank.

  Args:
    text: a prefix.
    counts: how often each prefix is in the bank.

  Returns:
    A number in (0, 1]; 1 for an empty bank.
  """
  if not counts:
    return 1.0
  mean = sum(counts.values()) / len(counts)
  return 1.0 / (1.0 + counts.get(text, 0) / mean)


LEXICAL = {"paper": lexical_paper, "relative": lexical_relative}
