"""Calls that a sidecar must refuse, each with the status that it deserves.

    python -m tests.sidecar.abuse host:port [NUMBER]

The sidecar has a role `judge` that generates and does not embed.
"""

import hashlib
import io
import json
import os
import random
import struct
import sys
import zlib

import grpc
from PIL import Image

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.inference import wire
from fmd_jax.inference.channel import TOKEN
from fmd_jax.sidecar import service

INVALID = grpc.StatusCode.INVALID_ARGUMENT
_PATH = "/fmd_jax.inference.Sidecar/"


def bomb(width: int = 50_000, height: int = 50_000) -> bytes:
  """A PNG of a few hundred bytes that claims so many pixels."""

  def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  data = zlib.compress(bytes(1000))
  parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + parts


def _good_png() -> bytes:
  buffer = io.BytesIO()
  Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
  return buffer.getvalue()


def _request(rng: random.Random, **changes) -> pb.Request:
  values = {
    "messages_json": json.dumps([{"role": "user", "content": f"q{rng.random()}"}]),
    "max_tokens": 8,
  }
  return pb.Request(**(values | changes))


def _messages(content) -> str:
  return json.dumps([{"role": "user", "content": content}])


def _generate(make):
  def call(stub, rng, metadata):
    list(stub.Generate(make(rng), metadata=metadata, timeout=30))

  return call


def _batch(**changes):
  return _generate(
    lambda rng: pb.GenerateRequest(role="judge", requests=[_request(rng, **changes)])
  )


def _put(make):
  def call(stub, rng, metadata):
    stub.PutImages(iter(make(rng)), metadata=metadata, timeout=30)

  return call


def _image(data: bytes):
  digest = hashlib.sha256(data).hexdigest()
  return [pb.ImageChunk(sha256=digest, data=data, last=True)]


def _cut(rng: random.Random):
  whole = _good_png()
  return _image(whole[: rng.randrange(1, 40)])


def _raw(payload: bytes, method: str = "Generate"):
  """Bytes that are no message."""

  def call(stub, rng, metadata):
    raw = stub.channel.unary_stream(
      _PATH + method, request_serializer=None, response_deserializer=None
    )
    list(raw(payload, metadata=metadata, timeout=30))

  return call


# name -> (the call, the status it must end with). They get `stub, rng, metadata`.
CASES = {
  "unknown role": (
    _generate(lambda r: pb.GenerateRequest(role=f"r{r.random()}")), INVALID
  ),
  "no role": (_generate(lambda r: pb.GenerateRequest()), INVALID),
  "messages are no JSON": (_batch(messages_json="{"), INVALID),
  "messages are deep": (_batch(messages_json="[" * 100_000), INVALID),
  "messages are a number": (_batch(messages_json="7"), INVALID),
  "a message is no object": (_batch(messages_json="[1]"), INVALID),
  "content is a number": (_batch(messages_json=_messages(7)), INVALID),
  "a part of unknown kind": (
    _batch(messages_json=_messages([{"type": "video"}])), INVALID
  ),
  "a text that is none": (
    _batch(messages_json=_messages([{"type": "text", "text": 3}])), INVALID
  ),
  "no tokens": (_batch(max_tokens=0), INVALID),
  "negative tokens": (_batch(max_tokens=-5), INVALID),
  "endless tokens": (_batch(max_tokens=2**31 - 1), INVALID),
  "temperature is NaN": (_batch(temperature=float("nan")), INVALID),
  "temperature is infinite": (_batch(temperature=float("inf")), INVALID),
  "temperature is negative": (_batch(temperature=-1.0), INVALID),
  "schema is no JSON": (_batch(schema_json="{"), INVALID),
  "schema is a list": (_batch(schema_json="[]"), INVALID),
  "too many requests": (
    _generate(
      lambda r: pb.GenerateRequest(
        role="judge", requests=[_request(r)] * (service.MAX_BATCH + 1)
      )
    ),
    INVALID,
  ),
  "an image that is not there": (
    _generate(
      lambda r: pb.GenerateRequest(
        role="judge",
        requests=[_request(r, images=[hashlib.sha256(r.randbytes(9)).hexdigest()])],
      )
    ),
    grpc.StatusCode.FAILED_PRECONDITION,
  ),
  "embedding by a judge": (
    lambda stub, rng, metadata: stub.Embed(
      pb.EmbedRequest(role="judge", texts=["a"]), metadata=metadata, timeout=30
    ),
    INVALID,
  ),
  "noise for an image": (_put(lambda r: _image(r.randbytes(200))), INVALID),
  "half an image": (_put(_cut), INVALID),
  "an empty image": (_put(lambda r: _image(b"")), INVALID),
  "a decompression bomb": (
    _put(lambda r: _image(bomb(r.randrange(20_000, 60_000)))), INVALID
  ),
  "a smaller bomb": (_put(lambda r: _image(bomb(11_000, 11_000))), INVALID),
  "another image's hash": (
    _put(
      lambda r: [
        pb.ImageChunk(
          sha256=hashlib.sha256(r.randbytes(9)).hexdigest(),
          data=_good_png(),
          last=True,
        )
      ]
    ),
    INVALID,
  ),
  "an image without its end": (
    _put(lambda r: [pb.ImageChunk(sha256="a" * 64, data=b"x")]), INVALID
  ),
  "bytes that are no message": (_raw(b"\xff" * 50), grpc.StatusCode.INTERNAL),
  "a message over the bound": (
    _raw(bytes(wire.MAX_MESSAGE_BYTES + 1)), grpc.StatusCode.RESOURCE_EXHAUSTED
  ),
  "a method that is not there": (
    _raw(b"", "Shutdown"), grpc.StatusCode.UNIMPLEMENTED
  ),
}  # fmt: skip
# Slow ones take their turn less often.
_RARE = ("a message over the bound", "too many requests")


def run(address: str, number: int, token: str) -> list[str]:
  """Makes `number` such calls, each fifth with a wrong token or none.

  Returns:
    A line for each call that ended otherwise than it should.
  """
  rng, wrong = random.Random(0), []
  names = list(CASES)
  options = [("grpc.max_send_message_length", -1)]
  with grpc.insecure_channel(address, options=options) as channel:
    stub = rpc.SidecarStub(channel)
    stub.channel = channel
    for place in range(number):
      name = names[place % len(names)]
      if name in _RARE and place > 2 * len(names):
        name = "no role"
      call, expected = CASES[name]
      told = token
      if place % 5 == 4 and name != "a message over the bound":
        told, expected = f"no{token}" * (place % 2), grpc.StatusCode.UNAUTHENTICATED
      metadata = (("authorization", f"Bearer {told}"),) if told else ()
      try:
        call(stub, rng, metadata)
        found = grpc.StatusCode.OK
      except grpc.RpcError as error:
        found = error.code()
      if found != expected:
        wrong.append(f"{name}: {found}, not {expected}")
    metadata = (("authorization", f"Bearer {token}"),)
    stub.Describe(pb.DescribeRequest(), metadata=metadata, timeout=30)
  return wrong


if __name__ == "__main__":
  found = run(
    sys.argv[1],
    int(sys.argv[2]) if len(sys.argv) > 2 else 1000,
    os.environ[TOKEN],
  )
  print("\n".join(found) or "each ended with the status it should have")
