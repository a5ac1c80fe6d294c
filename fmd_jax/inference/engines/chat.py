"""Chat messages on their way into a prompt: texts are data, images are slots."""

import re
from collections.abc import Sequence

from fmd_jax.inference.protocol import Messages

# Qwen's tokens, and the tags that reasoning and tool-calling templates give a meaning.
_CONTROL = re.compile(r"<\|[^|<>\s]*\|>|</?(?:think|tool_call|tool_response)>")


def strip_control_tokens(text: str) -> str:
  """Removes `<|im_end|>`, `</think>` and the like, which steer a model."""
  before = None
  # Repeated, because removing one can put the halves of another together.
  while before != text:
    before, text = text, _CONTROL.sub("", text)
  return text


def without_control_tokens(messages: Messages) -> Messages:
  """The same messages with control tokens stripped from every text."""
  out = []
  for message in messages:
    content = message["content"]
    if isinstance(content, str):
      content = strip_control_tokens(content)
    else:
      content = [
        {**part, "text": strip_control_tokens(part["text"])} if "text" in part else part
        for part in content
      ]
    out.append({**message, "content": content})
  return out


def expand_images(text: str, token: str, counts: Sequence[int]) -> str:
  """Repeats the i-th image token of a rendered prompt `counts[i]` times.

  Raises:
    ValueError: there are more or fewer image tokens than images.
  """
  parts = text.split(token)
  if len(parts) - 1 != len(counts):
    raise ValueError(
      f"the prompt has {len(parts) - 1} image slots, the request {len(counts)} images"
    )
  out = [parts[0]]
  for count, part in zip(counts, parts[1:], strict=True):
    out += [token * count, part]
  return "".join(out)
