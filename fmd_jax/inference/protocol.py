"""Requests, replies, and the two protocols that every engine and client follows."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    sample: which of several draws of one prompt with one seed; `generate_distinct`
      counts them.
    schema: the JSON schema of the reply, for engines that can hold a model to it.
      Others ignore it, so that a reader checks all the same.
  """

  messages: Messages
  images: tuple[bytes, ...] = ()
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  max_tokens: int = 64
  temperature: float = 0.0
  seed: int = 0
  sample: int = 0
  schema: Mapping[str, Any] | None = None


def draw_seed(request: Request) -> int:
  """The seed of one draw, 31 bits where there are several."""
  if not request.sample:
    return request.seed
  text = f"{request.seed}/{request.sample}".encode()
  return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


def own_seed(seed: int, key: str) -> int:
  """31 bits for the draws of one question among many.

  With one seed for all, an engine that seeds each row by it draws high or low for all
  of them together: fifty questions would be no more than one.
  """
  digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=4).digest()
  return int.from_bytes(digest, "big") >> 1


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a model said to one request.

  Attributes:
    text: the reply; "" when there is none.
    error: why there is no reply; "" when there is one.
    finish: "stop", or "length" when `max_tokens` cut the reply off.
    prompt_tokens: tokens read, where the engine tells.
    tokens: tokens written, reasoning included, where the engine tells.
    cached: whether it was kept from an earlier call, and cost nothing now.
  """

  text: str
  error: str = ""
  finish: str = "stop"
  prompt_tokens: int = 0
  tokens: int = 0
  cached: bool = False


@runtime_checkable
class Generator(Protocol):
  """A model that answers prompts.

  `name` and `revision` are the identity that records keep; never an address.
  `generate` gives one reply per request, in order, and treats its argument as
  one batch: the same requests give the same replies, whatever came before. One that
  has replies before the whole batch is done also has `stream`; see there.
  """

  name: str
  revision: str

  def generate(self, requests: Sequence[Request]) -> list[Reply]: ...


def stream(
  generator: Generator, requests: Sequence[Request]
) -> Iterator[tuple[int, Reply]]:
  """Index and reply of each request as they finish, each index once."""
  own = getattr(generator, "stream", None)
  if own is not None:
    yield from own(requests)
  else:
    yield from enumerate(generator.generate(requests))


def generate_distinct(generator: Generator, requests: Sequence[Request]) -> list[Reply]:
  """Asks each distinct greedy request of a batch once: its copies get the same reply.

  G responses to one image repeat themselves, the more so the longer a questioner has
  been trained, and an answer or a verdict may be dear.

  Args:
    generator: whom to ask.
    requests: N of them; sampled ones (temperature above 0) are all asked, and copies
      are counted by `sample`.

  Returns:
    N replies, in order.
  """
  replies = dict(stream_distinct(generator, requests))
  if len(replies) != len(requests):
    raise InferenceError(f"{len(replies)} replies to {len(requests)} requests")
  return [replies[place] for place in range(len(requests))]


def stream_distinct(
  generator: Generator, requests: Sequence[Request]
) -> Iterator[tuple[int, Reply]]:
  """`generate_distinct`, index and reply of each request as they finish."""
  places: dict[Any, list[int]] = {}
  asked: list[Request] = []
  copies: Counter = Counter()
  for place, request in enumerate(requests):
    fields = json.dumps([request.messages, dict(request.fields)], sort_keys=True)
    key = (fields, request.images, request.max_tokens)
    if request.temperature:
      key = (*key, request.temperature, request.seed, request.sample)
      copies[key] += 1
      sample = request.sample + copies[key] - 1
      request = dataclasses.replace(request, sample=sample)
      key = (*key, place)
    if key not in places:
      asked.append(request)
    places.setdefault(key, []).append(place)
  of_asked = list(places.values())
  if asked:
    for index, reply in stream(generator, asked):
      for place in of_asked[index]:
        yield place, reply


@runtime_checkable
class Embedder(Protocol):
  """A model that maps N texts to unit vectors, float32 [N, E]."""

  name: str
  revision: str

  def embed(self, texts: Sequence[str]) -> np.ndarray: ...


def identity(model: Generator | Embedder) -> str:
  """The identity of a model as records keep it: `name@revision`."""
  return f"{model.name}@{model.revision}" if model.revision else model.name
