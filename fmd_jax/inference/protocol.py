"""Requests, replies, and the two protocols that every engine and client follows."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Messages = list[dict[str, Any]]


class InferenceError(RuntimeError):
  """A model could not be asked at all, so that there is no reply to record."""


class SpecError(ValueError):
  """A model spec that names nothing this package can resolve."""


@dataclasses.dataclass(frozen=True)
class Request:
  """One prompt for one model.

  Attributes:
    messages: chat messages in the Hugging Face format; an image is
      `{"type": "image"}`, and the i-th of them is `images[i]`.
    images: encoded images (PNG or any other format that Pillow reads).
    fields: the values the prompt was rendered from ("question", "answer"), for
      engines that compute a reply instead of reading the prompt.
    max_tokens: the longest reply, in tokens of the model.
    temperature: 0 is greedy.
    seed: of the reply's randomness; it has no effect when greedy.
  """

  messages: Messages
  images: tuple[bytes, ...] = ()
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  max_tokens: int = 64
  temperature: float = 0.0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a model said to one request.

  Attributes:
    text: the reply; "" when there is none.
    error: why there is no reply; "" when there is one.
    finish: "stop", or "length" when `max_tokens` cut the reply off.
  """

  text: str
  error: str = ""
  finish: str = "stop"


@runtime_checkable
class Generator(Protocol):
  """A model that answers prompts.

  `name` and `revision` are the identity that records keep; never an address.
  `generate` gives one reply per request, in order, and treats its argument as
  one batch: the same requests give the same replies, whatever came before.
  """

  name: str
  revision: str

  def generate(self, requests: Sequence[Request]) -> list[Reply]: ...


def generate_distinct(generator: Generator, requests: Sequence[Request]) -> list[Reply]:
  """Asks each distinct greedy request of a batch once: its copies get the same reply.

  G responses to one image repeat themselves, the more so the longer a questioner has
  been trained, and an answer or a verdict may be dear.

  Args:
    generator: whom to ask.
    requests: N of them; sampled ones (temperature above 0) are all asked.

  Returns:
    N replies, in order.
  """
  first: dict[Any, int] = {}
  places, asked = [], []
  for request in requests:
    fields = json.dumps([request.messages, dict(request.fields)], sort_keys=True)
    key = (
      object() if request.temperature else (fields, request.images, request.max_tokens)
    )
    if key not in first:
      first[key] = len(asked)
      asked.append(request)
    places.append(first[key])
  replies = generator.generate(asked) if asked else []
  if len(replies) != len(asked):
    raise InferenceError(f"{len(replies)} replies to {len(asked)} requests")
  return [replies[place] for place in places]


@runtime_checkable
class Embedder(Protocol):
  """A model that maps N texts to unit vectors, float32 [N, E]."""

  name: str
  revision: str

  def embed(self, texts: Sequence[str]) -> np.ndarray: ...


def identity(model: Generator | Embedder) -> str:
  """The identity of a model as records keep it: `name@revision`."""
  return f"{model.name}@{model.revision}" if model.revision else model.name
