"""What the answerer is told for the text-only control: the question, and no image."""

VERSION = "blind/1"
_SYSTEM = (
  "Answer the question about an image that you cannot see with one word or a short "
  "phrase: the answer that is most likely."
)


def messages(question: str) -> list[dict]:
  """Asks a question without its image."""
  return [
    {"role": "system", "content": _SYSTEM},
    {"role": "user", "content": question},
  ]
