"""What the answerer is told. A change of wording is a change of version."""

VERSION = "answerer/1"
# The instruction comes before the image, so that questions about one image share
# everything up to the question itself.
_SYSTEM = "Answer the question about the image with one word or a short phrase."


def messages(question: str) -> list[dict]:
  """Asks a question about the image."""
  text = {"type": "text", "text": question}
  return [
    {"role": "system", "content": _SYSTEM},
    {"role": "user", "content": [{"type": "image"}, text]},
  ]
