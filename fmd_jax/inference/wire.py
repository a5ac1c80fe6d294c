"""Between this package's requests and the messages of sidecar.proto."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference.protocol import Reply, Request

# Messages carry texts and vectors; images travel in chunks of their own.
MAX_MESSAGE_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
_MAX_TOKENS = 1 << 20
_MAX_IMAGES = 256


def request_to_proto(request: Request, digests: Mapping[bytes, str]) -> pb.Request:
  """`digests` maps the bytes of each image to their sha256."""
  return pb.Request(
    messages_json=json.dumps(request.messages, ensure_ascii=False),
    images=[digests[image] for image in request.images],
    fields=dict(request.fields),
    max_tokens=request.max_tokens,
    temperature=request.temperature,
    seed=request.seed,
    sample=request.sample,
    schema_json="" if request.schema is None else json.dumps(dict(request.schema)),
  )


def request_from_proto(message: pb.Request, images: Mapping[str, bytes]) -> Request:
  """`images` maps sha256 to bytes.

  Raises:
    ValueError: the messages are not chat messages, or a number is out of its range.
  """
  schema = _json(message, "schema_json") if message.schema_json else None
  if not isinstance(schema, dict | None):
    raise ValueError("schema_json is not an object")
  if not 1 <= message.max_tokens <= _MAX_TOKENS:
    raise ValueError(f"max_tokens is {message.max_tokens}; from 1 to {_MAX_TOKENS}")
  if not 0 <= message.temperature <= 100:  # NaN is neither
    raise ValueError(f"temperature is {message.temperature}; from 0 to 100")
  if len(message.images) > _MAX_IMAGES:
    raise ValueError(f"{len(message.images)} images; at most {_MAX_IMAGES}")
  return Request(
    messages=_chat(_json(message, "messages_json")),
    images=tuple(images[digest] for digest in message.images),
    fields=dict(message.fields),
    max_tokens=message.max_tokens,
    temperature=message.temperature,
    seed=message.seed,
    sample=message.sample,
    schema=schema,
  )


def _json(message: pb.Request, field: str) -> Any:
  try:
    return json.loads(getattr(message, field))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{field} is not JSON: {error}") from error


def _chat(messages: Any) -> list[dict]:
  """Checks chat messages: `{role, content}`, content a text or a list of parts."""
  if not isinstance(messages, list) or not all(
    isinstance(entry, dict) and {"role", "content"} <= set(entry) for entry in messages
  ):
    raise ValueError("messages_json is not a list of {role, content}")
  for entry in messages:
    parts = entry["content"]
    if not isinstance(entry["role"], str):
      raise ValueError("a message's role is not a text")
    if isinstance(parts, str):
      continue
    if not isinstance(parts, list) or not all(_is_part(part) for part in parts):
      raise ValueError(
        'a message\'s content is neither a text nor a list of {"type": "image"} and '
        '{"type": "text", "text": …}'
      )
  return messages


def _is_part(part: Any) -> bool:
  if not isinstance(part, dict):
    return False
  if part.get("type") == "text":
    return isinstance(part.get("text"), str)
  return part == {"type": "image"}


def reply_to_proto(index: int, reply: Reply) -> pb.Reply:
  return pb.Reply(
    text=_utf8(reply.text),
    error=_utf8(reply.error),
    finish=reply.finish,
    prompt_tokens=reply.prompt_tokens,
    tokens=reply.tokens,
    cached=reply.cached,
    index=index,
  )


def _utf8(text: str) -> str:
  """JSON can spell half a surrogate pair: no text on the wire or in Parquet."""
  return text.encode("utf-8", "replace").decode()


def reply_from_proto(message: pb.Reply) -> Reply:
  return Reply(
    message.text,
    error=message.error,
    finish=message.finish,
    prompt_tokens=message.prompt_tokens,
    tokens=message.tokens,
    cached=message.cached,
  )


def vectors_to_proto(vectors: np.ndarray) -> dict:
  """The fields `width` and `vectors` of an EmbedResponse."""
  data = np.ascontiguousarray(vectors, "<f4")
  return {"width": data.shape[1], "vectors": data.tobytes()}


def vectors_from_proto(message: pb.EmbedResponse, texts: Sequence[str]) -> np.ndarray:
  flat = np.frombuffer(message.vectors, "<f4").astype(np.float32)
  return flat.reshape(len(texts), message.width)
