"""The caller's side of a sidecar: it waits for one that is gone, and says so."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from absl import logging

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.inference import wire
from fmd_jax.inference.protocol import InferenceError, Reply, Request

_GONE = (
  grpc.StatusCode.UNAVAILABLE,
  grpc.StatusCode.DEADLINE_EXCEEDED,
  grpc.StatusCode.CANCELLED,
)
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
_BATCH = 256
_SAY_AGAIN_SECONDS = 30.0
_UPLOADS = 3


class Connection:
  """One sidecar. Threads may share it.

  Args:
    address: host:port.
    deadline: seconds that one call may take, waiting included.
    while_waiting: called about once a second while the sidecar does not answer;
      what it raises ends the wait.
  """

  def __init__(
    self,
    address: str,
    *,
    deadline: float = 600.0,
    while_waiting: Callable[[], None] | None = None,
  ):
    self.address, self._deadline = address, deadline
    self._while_waiting = while_waiting
    self._channel = grpc.insecure_channel(address, options=_OPTIONS)
    self._stub = rpc.SidecarStub(self._channel)
    self._lock = threading.Lock()
    self._identities: dict[str, tuple[str, str]] = {}

  def close(self) -> None:
    self._channel.close()

  def identity(self, role: str, ability: str) -> tuple[str, str]:
    """Name and revision of a role's model; `ability`: "generates" or "embeds".

    Raises:
      InferenceError: the sidecar has no such role, or none with this ability.
    """
    with self._lock:
      if role in self._identities:
        return self._identities[role]
    found = {info.role: info for info in self._persist(self._describe).roles}
    if role not in found:
      raise InferenceError(
        f"sidecar at {self.address} has no role {role!r}; it has "
        + (", ".join(sorted(found)) or "none")
      )
    if not getattr(found[role], ability):
      verb = {"generates": "generate text", "embeds": "embed"}[ability]
      raise InferenceError(f"sidecar at {self.address}: role {role!r} does not {verb}")
    self._same_model(role, found[role])
    return found[role].name, found[role].revision

  def generate(self, role: str, requests: Sequence[Request]) -> list[Reply]:
    """Asks in batches cut by position, so that no batch depends on timing."""
    replies = []
    for start in range(0, len(requests), _BATCH):
      part = requests[start : start + _BATCH]
      replies += self._persist(lambda t, part=part: self._generate(t, role, part))
    return replies

  def embed(self, role: str, texts: Sequence[str]) -> np.ndarray:
    request = pb.EmbedRequest(role=role, texts=texts)
    response = self._persist(lambda t: self._stub.Embed(request, timeout=t))
    self._same_model(role, response)
    return wire.vectors_from_proto(response, texts)

  def _generate(
    self, timeout: float, role: str, requests: Sequence[Request]
  ) -> list[Reply]:
    give_up = time.monotonic() + timeout
    digests = _digests(image for request in requests for image in request.images)
    message = pb.GenerateRequest(
      role=role,
      requests=[wire.request_to_proto(request, digests) for request in requests],
    )
    for attempt in range(_UPLOADS):
      self._upload(digests, give_up)
      try:
        response = self._stub.Generate(message, timeout=give_up - time.monotonic())
      except grpc.RpcError as error:
        # Images leave a store that is full, also between the upload and this call.
        lost = error.code() == grpc.StatusCode.FAILED_PRECONDITION
        if not lost or attempt == _UPLOADS - 1:
          raise
        continue
      if len(response.replies) != len(requests):
        raise InferenceError(
          f"sidecar at {self.address} gave {len(response.replies)} replies "
          f"to {len(requests)} requests"
        )
      self._same_model(role, response)
      return [wire.reply_from_proto(reply) for reply in response.replies]
    raise AssertionError("unreachable")

  def _upload(self, digests: dict[bytes, str], give_up: float) -> None:
    """Sends the images that the sidecar does not have; it is asked every time,
    because it may be a new process by now."""
    if not digests:
      return
    asked = pb.HasImagesRequest(sha256=list(digests.values()))
    answer = self._stub.HasImages(asked, timeout=give_up - time.monotonic())
    if answer.missing:
      images = {digest: image for image, digest in digests.items()}
      chunks = _chunks((digest, images[digest]) for digest in answer.missing)
      self._stub.PutImages(chunks, timeout=give_up - time.monotonic())

  def _describe(self, timeout: float) -> pb.DescribeResponse:
    return self._stub.Describe(pb.DescribeRequest(), timeout=timeout)

  def _persist(self, call: Callable[[float], Any]) -> Any:
    """Calls with the seconds left, again and again while the sidecar is gone."""
    begun = time.monotonic()
    while True:
      left = begun + self._deadline - time.monotonic()
      try:
        return call(max(left, 0.1))
      except grpc.RpcError as error:
        if not _is_gone(error):
          raise InferenceError(
            f"sidecar at {self.address}: {error.code().name}: {error.details()}"
          ) from error
        self._wait(begun, error)

  def _wait(self, begun: float, error: grpc.RpcError) -> None:
    """Returns when the sidecar answers."""
    start, said, pause = time.monotonic(), None, 0.1
    while True:
      now = time.monotonic()
      if now - begun >= self._deadline:
        raise InferenceError(
          f"sidecar at {self.address} did not answer within {self._deadline:.0f} s: "
          f"{error.code().name}: {error.details()}"
        ) from error
      if said is None or now - said >= _SAY_AGAIN_SECONDS:
        logging.warning(
          "sidecar at %s does not answer; waiting (%.0f s of %.0f s): %s",
          self.address,
          now - begun,
          self._deadline,
          error.code().name,
        )
        said = now
      if self._while_waiting is not None:
        self._while_waiting()
      time.sleep(min(pause, max(begun + self._deadline - now, 0)))
      pause = min(pause * 2, 2.0)
      try:
        self._describe(2.0)
      except grpc.RpcError as again:
        if not _is_gone(again):
          raise InferenceError(
            f"sidecar at {self.address}: {again.code().name}: {again.details()}"
          ) from again
        error = again
        continue
      logging.warning(
        "sidecar at %s answers again after %.0f s",
        self.address,
        time.monotonic() - start,
      )
      return

  def _same_model(
    self, role: str, told: pb.RoleInfo | pb.GenerateResponse | pb.EmbedResponse
  ) -> None:
    # A run's records name one model; another one in its place must not go unnoticed.
    now = (told.name, told.revision)
    with self._lock:
      before = self._identities.setdefault(role, now)
    if now != before:
      raise InferenceError(
        f"sidecar at {self.address} came back with another model for {role}: "
        f"{'@'.join(now)}, not {'@'.join(before)}"
      )


class _Remote:
  _ability: str

  def __init__(self, connection: Connection, role: str):
    self._connection, self._role = connection, role

  @property
  def name(self) -> str:
    return self._connection.identity(self._role, self._ability)[0]

  @property
  def revision(self) -> str:
    return self._connection.identity(self._role, self._ability)[1]

  def close(self) -> None:
    self._connection.close()


class RemoteGenerator(_Remote):
  """A Generator behind a sidecar; its name and revision are the engine's own."""

  _ability = "generates"

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    return self._connection.generate(self._role, requests)


class RemoteEmbedder(_Remote):
  """An Embedder behind a sidecar."""

  _ability = "embeds"

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    return self._connection.embed(self._role, texts)


def _is_gone(error: grpc.RpcError) -> bool:
  # A connection cut in the middle of a reply is reported as INTERNAL, by its reset.
  return error.code() in _GONE or (
    error.code() == grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")
  )


def _digests(images: Iterable[bytes]) -> dict[bytes, str]:
  return {image: hashlib.sha256(image).hexdigest() for image in set(images)}


def _chunks(images: Iterable[tuple[str, bytes]]) -> Iterator[pb.ImageChunk]:
  for digest, data in images:
    # An empty image is one empty chunk: the server then names what is wrong.
    for start in range(0, max(len(data), 1), wire.CHUNK_BYTES):
      end = start + wire.CHUNK_BYTES
      yield pb.ImageChunk(sha256=digest, data=data[start:end], last=end >= len(data))
