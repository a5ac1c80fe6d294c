"""The sidecar's process: loads engines and serves them over gRPC.

Each engine has one thread, so calls to it run one after another, whole, in the
order in which they came; what a batch contains is the caller's business alone.
"""

import concurrent.futures
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from absl import logging
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import fmd_jax
from fmd_jax import inference
from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.inference import wire
from fmd_jax.sidecar import images

SERVICE = pb.DESCRIPTOR.services_by_name["Sidecar"].full_name
_WORKERS = 32
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_OPTIONS = (
  ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
  ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
  # Two sidecars on one port would share its calls; the second one must fail.
  ("grpc.so_reuseport", 0),
  # Clients ping to notice a stopped process; by default that is punished.
  ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
  ("grpc.http2.max_ping_strikes", 0),
  ("grpc.keepalive_permit_without_calls", 1),
)


class _Engine:
  """An engine and the one thread that touches it: torch keeps a thread pool per
  calling thread, and a model is not to be entered twice at once."""

  def __init__(self, spec: str):
    self._thread = concurrent.futures.ThreadPoolExecutor(1)
    self.model = self._thread.submit(inference.load_engine, spec).result()

  def run(self, context: grpc.ServicerContext, method: str, *args: Any) -> Any:
    def work():
      # A caller that has left while this waited for its turn costs nothing.
      return getattr(self.model, method)(*args) if context.is_active() else None

    return self._thread.submit(work).result()


class Servicer(rpc.SidecarServicer):
  """Answers for the engines, which `load` fills in."""

  def __init__(self, capacity: int):
    self._images = images.ImageStore(capacity)
    self._roles: dict[str, _Engine] | None = None

  def load(self, roles: Mapping[str, str]) -> None:
    """Loads one engine per different spec; roles of one spec share it.

    Raises:
      inference.SpecError: a spec that cannot be resolved, naming its role.
    """
    engines: dict[str, _Engine] = {}
    for role, spec in roles.items():
      if spec in engines:
        continue
      start = time.monotonic()
      try:
        if inference.is_remote(spec):
          raise inference.SpecError(f"{spec!r}: a sidecar does not serve a sidecar")
        engines[spec] = _Engine(spec)
      except Exception as error:
        known = isinstance(error, inference.SpecError | ImportError)
        reason = str(error) if known else repr(error)
        raise inference.SpecError(f"role {role}: {reason}") from error
      logging.info("loaded %s in %.1f s", spec, time.monotonic() - start)
    self._roles = {role: engines[spec] for role, spec in roles.items()}

  def Describe(self, request, context):
    return pb.DescribeResponse(
      version=fmd_jax.__version__,
      roles=[
        pb.RoleInfo(
          role=role,
          name=engine.model.name,
          revision=engine.model.revision,
          generates=hasattr(engine.model, "generate"),
          embeds=hasattr(engine.model, "embed"),
        )
        for role, engine in self._loaded(context).items()
      ],
    )

  def Generate(self, request, context):
    engine = self._engine(request.role, "generate", context)
    found, missing = self._images.get(
      digest for one in request.requests for digest in one.images
    )
    if missing:
      # Only some of them: a status has to fit in 8 KiB. HasImages tells all.
      context.abort(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"{len(missing)} images are not stored: {' '.join(missing[:32])}",
      )
    try:
      requests = [wire.request_from_proto(one, found) for one in request.requests]
    except ValueError as error:
      context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    replies = self._run(engine, "generate", requests, context)
    return pb.GenerateResponse(
      replies=[wire.reply_to_proto(reply) for reply in replies],
      name=engine.model.name,
      revision=engine.model.revision,
    )

  def Embed(self, request, context):
    engine = self._engine(request.role, "embed", context)
    vectors = self._run(engine, "embed", list(request.texts), context)
    return pb.EmbedResponse(
      **wire.vectors_to_proto(vectors),
      name=engine.model.name,
      revision=engine.model.revision,
    )

  def HasImages(self, request, context):
    return pb.HasImagesResponse(missing=self._images.get(request.sha256)[1])

  def PutImages(self, request_iterator: Iterator[pb.ImageChunk], context):
    stored, parts, digest = 0, [], None
    for chunk in request_iterator:
      if digest not in (None, chunk.sha256):
        break
      digest = chunk.sha256
      parts.append(chunk.data)
      if chunk.last:
        try:
          self._images.put(digest, b"".join(parts))
        except ValueError as error:
          context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        stored, parts, digest = stored + 1, [], None
    if digest is not None:
      context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, f"image {digest[:12]}… was not finished"
      )
    return pb.PutImagesResponse(stored=stored)

  def _loaded(self, context) -> dict[str, _Engine]:
    if self._roles is None:
      context.abort(grpc.StatusCode.UNAVAILABLE, "the models are being loaded")
    return self._roles

  def _engine(self, role: str, method: str, context) -> _Engine:
    roles = self._loaded(context)
    if role not in roles:
      context.abort(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"no role {role!r}; this sidecar has {', '.join(sorted(roles))}",
      )
    if not hasattr(roles[role].model, method):
      context.abort(
        grpc.StatusCode.INVALID_ARGUMENT, f"role {role!r} does not {method}"
      )
    return roles[role]

  def _run(self, engine: _Engine, method: str, batch: list, context) -> Any:
    try:
      result = engine.run(context, method, batch)
    # Whatever an engine raises concerns the whole batch; the caller is to know.
    except Exception as error:
      logging.exception("%s failed", engine.model.name)
      context.abort(grpc.StatusCode.INTERNAL, f"{engine.model.name}: {error!r}"[:2000])
    if result is None:
      context.abort(grpc.StatusCode.CANCELLED, "the caller had left")
    return result


def serve(
  roles: Mapping[str, str],
  *,
  host: str,
  port: int,
  image_store_mb: int = 512,
  on_ready: Callable[[str], None] | None = None,
  stop: threading.Event | None = None,
) -> None:
  """Serves until `stop` is set. Health is SERVING once every engine is loaded.

  Args:
    roles: role -> model spec.
    host: where to listen; there is no authentication, so 127.0.0.1 unless the
      network is trusted.
    port: 0 takes a free one.
    image_store_mb: megabytes of uploaded images to keep.
    on_ready: called with host:port once health is SERVING.
    stop: ends the server; None serves for ever.

  Raises:
    inference.SpecError: a model cannot be loaded.
    OSError: the port is taken.
  """
  server = grpc.server(
    concurrent.futures.ThreadPoolExecutor(_WORKERS), options=_OPTIONS
  )
  servicer, status = Servicer(image_store_mb << 20), health.HealthServicer()
  rpc.add_SidecarServicer_to_server(servicer, server)
  health_pb2_grpc.add_HealthServicer_to_server(status, server)
  reflection.enable_server_reflection(
    (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
  )
  _set_health(status, health_pb2.HealthCheckResponse.NOT_SERVING)
  try:
    bound = server.add_insecure_port(f"{host}:{port}")
  except RuntimeError as error:
    raise OSError(f"cannot listen at {host}:{port}: {error}") from error
  if host not in _LOOPBACK:
    logging.warning("listening at %s without authentication", host)
  server.start()
  try:
    servicer.load(roles)
    _set_health(status, health_pb2.HealthCheckResponse.SERVING)
    address = f"{host}:{bound}"
    logging.info("serving at %s: %s", address, ", ".join(roles))
    if on_ready is not None:
      on_ready(address)
    (stop or threading.Event()).wait()
    status.enter_graceful_shutdown()
  finally:
    server.stop(grace=1.0).wait()


def _set_health(status: health.HealthServicer, value: int) -> None:
  for service in ("", SERVICE):
    status.set(service, value)


def set_threads(threads: int) -> None:
  """Caps the math threads; to be called before torch is imported."""
  os.environ["OMP_NUM_THREADS"] = str(threads)


def stop_on_signals() -> threading.Event:
  """An event that SIGTERM and SIGINT set, once; for the main thread."""
  stop = threading.Event()
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())
  return stop


def leave(code: int) -> None:
  """Ends the process at once: an engine may still be busy for a caller that left."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _die_with(parent: int) -> None:
  # Polled, because PR_SET_PDEATHSIG follows the thread that started us, not its
  # process, and an inherited pipe stays open in the parent's other children.
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(0)


def main(options: Mapping[str, Any]) -> None:
  """What `process.start` runs: `options` are its arguments and the parent's id."""
  threading.Thread(target=_die_with, args=(options["parent"],), daemon=True).start()
  if options["threads"]:
    set_threads(options["threads"])
  stop = stop_on_signals()
  # Ctrl-C reaches the whole process group; the parent decides what it means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)

  def ready(address: str) -> None:
    os.write(options["ready_fd"], f"{address}\n".encode())
    os.close(options["ready_fd"])

  try:
    serve(
      options["roles"],
      host=options["host"],
      port=options["port"],
      image_store_mb=options["image_store_mb"],
      on_ready=ready,
      stop=stop,
    )
  except (inference.SpecError, OSError) as error:
    logging.error("%s", error)
    leave(1)
  leave(0)


if __name__ == "__main__":
  main(json.loads(sys.argv[1]))
