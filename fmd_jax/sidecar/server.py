"""The sidecar's process: engines behind gRPC.

Calls to one engine run one after another, whole, in the order in which they came (an
engine that takes many at once aside); what a batch contains is the caller's business
alone. What can grow is bounded: threads, messages, batches, images, queues.
"""

import concurrent.futures
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from absl import logging
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.inference import wire
from fmd_jax.sidecar import cache, security
from fmd_jax.sidecar.service import Servicer
from fmd_jax.sidecar.worker import MAX_QUEUE

SERVICE = pb.DESCRIPTOR.services_by_name["Sidecar"].full_name
# Calls at one time. One more is refused at once, instead of waiting where nobody sees.
_CALLS = 160
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


def serve(
  roles: Mapping[str, str],
  *,
  host: str,
  port: int,
  image_store_mb: int = 512,
  max_queue: int = MAX_QUEUE,
  cache_folder: str = "",
  cache_gb: float = 4.0,
  secure: security.Security | None = None,
  on_ready: Callable[[str], None] | None = None,
  stop: threading.Event | None = None,
) -> None:
  """Serves until `stop` is set. Health is SERVING once every engine is loaded.

  Args:
    roles: role -> model spec.
    host: where to listen; beyond 127.0.0.1 only with a token or a client CA.
    port: 0 takes a free one.
    image_store_mb: megabytes of uploaded images to keep.
    max_queue: requests that may wait for one engine; others are told to come back.
    cache_folder: where replies are kept; "" keeps none.
    cache_gb: gigabytes of replies to keep.
    secure: token and TLS; None takes the token of the environment and no TLS.
    on_ready: called with host:port once health is SERVING.
    stop: ends the server; None serves for ever.

  Raises:
    inference.SpecError: a model cannot be loaded.
    ValueError: a public address without authentication, half a TLS setting.
    OSError: the port is taken, a certificate is not there; an engine has ended.
  """
  secure = secure or security.from_environment()
  secure.check(host)
  kept = cache.open_folder(cache_folder, cache_gb) if cache_folder else None
  stop, dead = stop or threading.Event(), []

  def on_dead(reason: str) -> None:
    dead.append(reason)
    stop.set()

  servicer = Servicer(image_store_mb << 20, max_queue, kept, on_dead)
  status = health.HealthServicer()
  server = grpc.server(
    concurrent.futures.ThreadPoolExecutor(_CALLS),
    interceptors=(
      [security.TokenInterceptor(secure.token, servicer.reject)] if secure.token else []
    ),
    options=_OPTIONS,
    maximum_concurrent_rpcs=_CALLS,
  )
  rpc.add_SidecarServicer_to_server(servicer, server)
  health_pb2_grpc.add_HealthServicer_to_server(status, server)
  reflection.enable_server_reflection(
    (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
  )
  _set_health(status, health_pb2.HealthCheckResponse.NOT_SERVING)
  try:
    credentials = secure.credentials()
    bound = (
      server.add_secure_port(f"{host}:{port}", credentials)
      if credentials
      else server.add_insecure_port(f"{host}:{port}")
    )
  except RuntimeError as error:
    raise OSError(f"cannot listen at {host}:{port}: {error}") from error
  server.start()
  try:
    servicer.load(roles)
    _set_health(status, health_pb2.HealthCheckResponse.SERVING)
    address = f"{host}:{bound}"
    logging.info("serving at %s: %s", address, ", ".join(roles))
    if on_ready is not None:
      on_ready(address)
    stop.wait()
    status.enter_graceful_shutdown()
  finally:
    server.stop(grace=1.0).wait()
    servicer.close()
  if dead:
    raise ChildProcessError(dead[0])


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
      cache_folder=options["cache_folder"],
      cache_gb=options["cache_gb"],
      on_ready=ready,
      stop=stop,
    )
  except (ValueError, ImportError, OSError) as error:
    logging.error("%s", error)
    leave(1)
  leave(0)


if __name__ == "__main__":
  main(json.loads(sys.argv[1]))
