"""A question of this world in other words: the same program, another surface form."""

import random

from fmd_jax.world.grammar import normalise, parse, realise

_TRIES = 40


def paraphrase(question: str) -> str | None:
  """Another wording of a question, always the same one.

  Returns:
    A text that parses to the same program, in other words; None for a text that is no
    question of this world.
  """
  reading = parse(question)
  if reading is None or reading.program is None:
    return None
  rng = random.Random(question)
  # A lead-in alone ("Looking at the picture, ...") is no other wording.
  own = normalise(question)[len(reading.opener.split()) :]
  for _ in range(_TRIES):
    text = realise(reading.program, rng, lead_share=0.0)
    if normalise(text) != own:
      return text
  return None
