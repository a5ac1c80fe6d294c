"""Between this package's requests and the messages of sidecar.proto."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference.protocol import Reply, Request

# Messages carry texts and vectors; images travel in chunks of their own.
MAX_MESSAGE_BYTES = 256 << 20
CHUNK_BYTES = 1 << 20


def request_to_proto(request: Request, digests: Mapping[bytes, str]) -> pb.Request:
  """`digests` maps the bytes of each image to their sha256."""
  return pb.Request(
    messages_json=json.dumps(request.messages, ensure_ascii=False),
    images=[digests[image] for image in request.images],
    fields=dict(request.fields),
    max_tokens=request.max_tokens,
    temperature=request.temperature,
    seed=request.seed,
  )


def request_from_proto(message: pb.Request, images: Mapping[str, bytes]) -> Request:
  """`images` maps sha256 to bytes.

  Raises:
    ValueError: the messages are not chat messages.
  """
  try:
    messages = json.loads(message.messages_json)
  except ValueError as error:
    raise ValueError(f"messages_json is not JSON: {error}") from error
  if not isinstance(messages, list) or not all(
    isinstance(entry, dict) and {"role", "content"} <= set(entry) for entry in messages
  ):
    raise ValueError("messages_json is not a list of {role, content}")
  return Request(
    messages=messages,
    images=tuple(images[digest] for digest in message.images),
    fields=dict(message.fields),
    max_tokens=message.max_tokens,
    temperature=message.temperature,
    seed=message.seed,
  )


def reply_to_proto(reply: Reply) -> pb.Reply:
  return pb.Reply(text=reply.text, error=reply.error, finish=reply.finish)


def reply_from_proto(message: pb.Reply) -> Reply:
  return Reply(message.text, error=message.error, finish=message.finish)


def vectors_to_proto(vectors: np.ndarray) -> dict:
  """The fields `width` and `vectors` of an EmbedResponse."""
  data = np.ascontiguousarray(vectors, "<f4")
  return {"width": data.shape[1], "vectors": data.tobytes()}


def vectors_from_proto(message: pb.EmbedResponse, texts: Sequence[str]) -> np.ndarray:
  flat = np.frombuffer(message.vectors, "<f4").astype(np.float32)
  return flat.reshape(len(texts), message.width)
