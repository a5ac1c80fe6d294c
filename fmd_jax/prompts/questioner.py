"""What the questioner is told. A change of wording is a change of version."""

from collections.abc import Sequence

VERSION = "questioner/1"
_SYSTEM = (
  "You look for questions about an image that a vision-language model answers wrongly."
)
_USER = (
  "Ask {k} questions about this image. Each question must be grammatical, ask one "
  "thing only, need the image, and have one clear answer. Write question i as "
  "<response_i>question</response_i>."
)


def messages(k: int) -> list[dict]:
  """Asks for `k` questions."""
  text = {"type": "text", "text": _USER.format(k=k)}
  return [
    {"role": "system", "content": _SYSTEM},
    {"role": "user", "content": [{"type": "image"}, text]},
  ]


def response(questions: Sequence[str]) -> str:
  """The response that asks these questions, as the prompt wants it."""
  return "".join(
    f"<response_{i}>{question}</response_{i}>"
    for i, question in enumerate(questions, 1)
  )
