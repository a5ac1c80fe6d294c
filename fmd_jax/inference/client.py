"""The caller's side of one or several sidecars: it shares out the work, waits for one
that is gone, and says so."""

import concurrent.futures
import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from absl import logging

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import wire
from fmd_jax.inference.channel import Server, Tls
from fmd_jax.inference.protocol import InferenceError, Reply, Request

_GONE = (
  grpc.StatusCode.UNAVAILABLE,
  grpc.StatusCode.DEADLINE_EXCEEDED,
  grpc.StatusCode.CANCELLED,
)
_BATCH = 256
_SMALLEST_PART = 16
_SAY_AGAIN_SECONDS = 30.0
# A sidecar that was gone is tried again after this, where others do its work.
_RETRY_SECONDS = 3.0
_ASK_SECONDS = 2.0


class Connection:
  """One sidecar, or several of the same models. Threads may share it.

  A part of a batch that a sidecar did not finish is asked again whole, at another one
  or the same: a prompt has no effect on a model.

  Args:
    addresses: host:port, of several separated by commas.
    deadline: seconds that one call may take, waiting included.
    while_waiting: called about once a second while no sidecar answers; what it raises
      ends the wait.
    tls: None for a plain connection.
  """

  def __init__(
    self,
    addresses: str,
    *,
    deadline: float = 600.0,
    while_waiting: Callable[[], None] | None = None,
    tls: Tls | None = None,
  ):
    self.address, self._deadline = addresses, deadline
    self._while_waiting = while_waiting
    try:
      self._servers = [Server(address, tls) for address in addresses.split(",")]
    except OSError as error:
      raise InferenceError(f"sidecar at {addresses}: {error}") from error
    self._lock, self._choosing = threading.Lock(), threading.Lock()
    self._identities: dict[str, tuple[str, str]] = {}

  def close(self) -> None:
    for server in self._servers:
      server.close()

  def identity(self, role: str, ability: str) -> tuple[str, str]:
    """Name and revision of a role's model; `ability`: "generates" or "embeds".

    Raises:
      InferenceError: the sidecar has no such role, or none with this ability.
    """
    with self._lock:
      if role in self._identities:
        return self._identities[role]
    described = self._persist(lambda server, t: server.describe(t))
    found = {info.role: info for info in described.roles}
    if role not in found:
      raise InferenceError(
        f"sidecar at {self.address} has no role {role!r}; it has "
        + (", ".join(sorted(found)) or "none")
      )
    if not getattr(found[role], ability):
      verb = {"generates": "generate text", "embeds": "embed"}[ability]
      raise InferenceError(f"sidecar at {self.address}: role {role!r} does not {verb}")
    self._same_model(self.address, role, found[role])
    return found[role].name, found[role].revision

  def status(self, timeout: float = _ASK_SECONDS) -> dict[str, Any]:
    """What each sidecar does now: address -> StatusResponse, or its error as text."""
    found = {}
    for server in self._servers:
      try:
        found[server.address] = server.status(timeout)
      except grpc.RpcError as error:
        found[server.address] = f"{error.code().name}: {error.details()}"
    return found

  def stream(
    self, role: str, requests: Sequence[Request]
  ) -> Iterator[tuple[int, Reply]]:
    """Index and reply of each request as they finish, each once.

    The batch is cut by position, so that no part depends on timing.
    """
    parts = [
      (start, requests[start : start + size])
      for size in (self._part_size(len(requests)),)
      for start in range(0, len(requests), size)
    ]
    if len(self._servers) == 1 or len(parts) < 2:
      for start, part in parts:
        for index, reply in self._ask(role, part):
          yield start + index, reply
      return
    yield from self._share(role, parts)

  def embed(self, role: str, texts: Sequence[str]) -> np.ndarray:
    request = pb.EmbedRequest(role=role, texts=texts)
    response = self._persist(lambda server, t: server.embed(request, t))
    self._same_model(self.address, role, response)
    return wire.vectors_from_proto(response, texts)

  def _part_size(self, number: int) -> int:
    if len(self._servers) == 1:
      return _BATCH
    # Two parts for each: one that is slower is given less.
    return min(_BATCH, max(_SMALLEST_PART, -(-number // (2 * len(self._servers)))))

  def _share(self, role: str, parts: list) -> Iterator[tuple[int, Reply]]:
    """Parts at all sidecars at once, each taking the next when it is done."""
    results: queue.Queue = queue.Queue()
    left = threading.Event()

    def work(start: int, part: Sequence[Request]) -> None:
      if left.is_set():
        return
      for index, reply in self._ask(role, part):
        results.put((start + index, reply))
        if left.is_set():
          return

    pool = concurrent.futures.ThreadPoolExecutor(len(self._servers))
    futures = [pool.submit(work, *part) for part in parts]
    for future in futures:
      future.add_done_callback(lambda done: results.put(done))
    try:
      waiting = len(futures)
      while waiting:
        found = results.get()
        if isinstance(found, concurrent.futures.Future):
          found.result()
          waiting -= 1
        else:
          yield found
    finally:
      left.set()
      pool.shutdown(wait=False, cancel_futures=True)

  def _ask(self, role: str, part: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    """Index and reply of each request of one part."""
    seen: set[int] = set()

    def call(server: Server, timeout: float) -> Iterator[tuple[int, Reply]]:
      for response in server.generate(role, part, timeout):
        self._same_model(server.address, role, response)
        for message in response.replies:
          # Of a second attempt only what the first did not bring.
          if message.index not in seen:
            seen.add(message.index)
            yield message.index, wire.reply_from_proto(message)

    yield from self._attempts(call)
    if seen != set(range(len(part))):
      raise InferenceError(
        f"sidecar at {self.address} gave {len(seen)} replies to {len(part)} requests"
      )

  def _persist(self, call: Callable[[Server, float], Any]) -> Any:
    (result,) = self._attempts(lambda server, t: iter([call(server, t)]))
    return result

  def _attempts(self, call: Callable[[Server, float], Iterator[Any]]) -> Iterator[Any]:
    """What a call gives, made again and again while there is no sidecar for it."""
    begun, full = time.monotonic(), 0
    while True:
      left = begun + self._deadline - time.monotonic()
      try:
        with contextlib.ExitStack() as use:
          with self._choosing:  # of two at one time the second sees the first's choice
            server = self._pick()
            use.enter_context(server.used())
          yield from call(server, max(left, 0.1))
        return
      except grpc.RpcError as error:
        pause = _pushback(error)
        if pause is not None and left > 0:
          # Jitter, lest all who were turned away come back together.
          time.sleep(min(pause * 2 ** min(full, 5) * random.uniform(0.5, 1.5), 30.0))
          full += 1
        elif _is_gone(error):
          server.down = time.monotonic()
          if not any(other.down is None for other in self._servers):
            self._wait(begun, error)
          else:
            _say_gone(server, error)
        else:
          raise InferenceError(
            f"sidecar at {server.address}: {error.code().name}: {error.details()}"
          ) from error

  def _pick(self) -> Server:
    """The sidecar with the fewest calls under way, among those that answer."""
    now = time.monotonic()
    for server in self._servers if len(self._servers) > 1 else ():
      if server.down is not None and now - server.down > _RETRY_SECONDS:
        with contextlib.suppress(grpc.RpcError):
          server.describe(0.5)
          server.down = None
          logging.warning("sidecar at %s answers again", server.address)
        if server.down is not None:
          server.down = time.monotonic()
    answering = [s for s in self._servers if s.down is None] or self._servers
    return min(answering, key=lambda server: server.busy)

  def _wait(self, begun: float, error: grpc.RpcError) -> None:
    """Returns when a sidecar answers."""
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
      for server in self._servers:
        try:
          server.describe(_ASK_SECONDS)
        except grpc.RpcError as again:
          if not _is_gone(again):
            raise InferenceError(
              f"sidecar at {server.address}: {again.code().name}: {again.details()}"
            ) from again
          error = again
          continue
        server.down = None
        logging.warning(
          "sidecar at %s answers again after %.0f s",
          server.address,
          time.monotonic() - start,
        )
        return

  def _same_model(
    self,
    address: str,
    role: str,
    told: pb.RoleInfo | pb.GenerateResponse | pb.EmbedResponse,
  ) -> None:
    # A run's records name one model; another one in its place must not go unnoticed.
    now = (told.name, told.revision)
    with self._lock:
      before = self._identities.setdefault(role, now)
    if now != before:
      raise InferenceError(
        f"sidecar at {address} came back with another model for {role}: "
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
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    return self._connection.stream(self._role, requests)


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


def _pushback(error: grpc.RpcError) -> float | None:
  """Seconds after which a sidecar that is full wants to be asked again; else None."""
  if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
    return None
  for key, value in error.trailing_metadata() or ():
    if key == "grpc-retry-pushback-ms":
      return int(value) / 1000
  # gRPC's own bound on calls at one time; a message that is too large is its, too.
  return 0.5 if "Concurrent RPC limit" in (error.details() or "") else None


def _say_gone(server: Server, error: grpc.RpcError) -> None:
  logging.warning(
    "sidecar at %s is gone, the others go on: %s", server.address, error.code().name
  )
