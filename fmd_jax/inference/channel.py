"""One sidecar, as its caller sees it: the connection, and what was sent there."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import grpc

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.inference import wire
from fmd_jax.inference.protocol import Request

# The environment variable with the bearer token, of callers and sidecars alike.
TOKEN = "FMD_JAX_TOKEN"
_OPTIONS = (
  ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
  ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
  # A process that is stopped keeps its connection: only a ping notices.
  ("grpc.keepalive_time_ms", 10_000),
  ("grpc.keepalive_timeout_ms", 20_000),
  # Without it a ping has 60 s to come back, whatever keepalive_timeout says.
  ("grpc.http2.ping_timeout_ms", 20_000),
  ("grpc.http2.max_pings_without_data", 0),
  ("grpc.initial_reconnect_backoff_ms", 200),
  # This one is also how long an attempt to connect may take.
  ("grpc.min_reconnect_backoff_ms", 5_000),
  ("grpc.max_reconnect_backoff_ms", 2_000),
  # http_proxy in the environment is for the web, not for a sidecar.
  ("grpc.enable_http_proxy", 0),
)
# A store that holds fewer images than its callers use at once loses some before they
# are read; a batch that is larger than the store is an error after some seconds.
_UPLOADS = 12
_KNOWN = 100_000


@dataclasses.dataclass(frozen=True)
class Tls:
  """PEM files: who signed the sidecar's certificate ("" takes the system's list), and
  the caller's own certificate and key ("" for none)."""

  ca: str = ""
  certificate: str = ""
  key: str = ""

  def credentials(self) -> grpc.ChannelCredentials:
    ca, key, certificate = (
      pathlib.Path(path).read_bytes() if path else None
      for path in (self.ca, self.key, self.certificate)
    )
    return grpc.ssl_channel_credentials(ca, key, certificate)


class Server:
  """One sidecar. Threads may share it.

  Attributes:
    address: host:port.
    busy: calls that are under way.
    down: when it was last found gone (monotonic seconds); None while it answers.
  """

  def __init__(self, address: str, tls: Tls | None):
    self.address, self.busy, self.down = address, 0, None
    self._channel = (
      grpc.insecure_channel(address, options=_OPTIONS)
      if tls is None
      else grpc.secure_channel(address, tls.credentials(), options=_OPTIONS)
    )
    self._stub = rpc.SidecarStub(self._channel)
    token = os.environ.get(TOKEN, "").strip()
    self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
    self._lock = threading.Lock()
    # What was sent; it may have left the store since, which a call then says.
    self._known: dict[str, None] = {}

  def close(self) -> None:
    self._channel.close()

  @contextlib.contextmanager
  def used(self) -> Iterator[None]:
    """Counts a call as under way."""
    with self._lock:
      self.busy += 1
    try:
      yield
    finally:
      with self._lock:
        self.busy -= 1

  def describe(self, timeout: float) -> pb.DescribeResponse:
    return self._stub.Describe(
      pb.DescribeRequest(), timeout=timeout, metadata=self._metadata
    )

  def status(self, timeout: float) -> pb.StatusResponse:
    return self._stub.Status(
      pb.StatusRequest(), timeout=timeout, metadata=self._metadata
    )

  def embed(self, request: pb.EmbedRequest, timeout: float) -> pb.EmbedResponse:
    return self._stub.Embed(request, timeout=timeout, metadata=self._metadata)

  def generate(
    self, role: str, requests: Sequence[Request], timeout: float
  ) -> Iterator[pb.GenerateResponse]:
    """Replies as they finish; the images go first where they are not there yet.

    Raises:
      grpc.RpcError: as the call ended.
    """
    give_up = time.monotonic() + timeout
    digests = {
      image: hashlib.sha256(image).hexdigest()
      for image in {image for request in requests for image in request.images}
    }
    message = pb.GenerateRequest(
      role=role,
      requests=[wire.request_to_proto(request, digests) for request in requests],
    )
    with self._lock:
      new = [name for name in digests.values() if name not in self._known]
    for attempt in range(_UPLOADS):
      if new:
        self._upload(digests, new, give_up)
      call = self._stub.Generate(
        message, timeout=give_up - time.monotonic(), metadata=self._metadata
      )
      begun = False
      try:
        for response in call:
          begun = True
          yield response
        return
      except grpc.RpcError as error:
        # Images leave a store that is full, or went with the process that had them.
        lost = error.code() == grpc.StatusCode.FAILED_PRECONDITION and not begun
        if not lost or attempt == _UPLOADS - 1:
          raise
        new = list(digests.values())
        # Jitter, lest callers who push each other's images out keep doing so.
        time.sleep(min(0.05 * 2**attempt, 1.0) * random.uniform(0.0, 1.0))
      finally:
        call.cancel()  # of a caller that stops reading; otherwise nothing

  def _upload(
    self, digests: dict[bytes, str], names: Sequence[str], give_up: float
  ) -> None:
    """Sends those of the images that the sidecar does not have."""
    answer = self._stub.HasImages(
      pb.HasImagesRequest(sha256=names),
      timeout=give_up - time.monotonic(),
      metadata=self._metadata,
    )
    if answer.missing:
      images = {digest: image for image, digest in digests.items()}
      self._stub.PutImages(
        chunks((digest, images[digest]) for digest in answer.missing),
        timeout=give_up - time.monotonic(),
        metadata=self._metadata,
      )
    with self._lock:
      self._known |= dict.fromkeys(names)
      while len(self._known) > _KNOWN:
        del self._known[next(iter(self._known))]


def chunks(images: Iterable[tuple[str, bytes]]) -> Iterator[pb.ImageChunk]:
  for digest, data in images:
    # An empty image is one empty chunk: the server then names what is wrong.
    for start in range(0, max(len(data), 1), wire.CHUNK_BYTES):
      end = start + wire.CHUNK_BYTES
      yield pb.ImageChunk(sha256=digest, data=data[start:end], last=end >= len(data))
