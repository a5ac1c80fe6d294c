"""Serves models to a run in another process, or on another machine.

  python -m launch.sidecar --role answerer=hf:///path/to/Qwen2.5-VL-3B \\
    --role verifier=oracle:// --role embedder=minilm:// --port 50051
  python -m launch.sidecar --status localhost:50051 [--watch 2]

A run then names them in its config: `--config.roles.answerer=grpc://host:50051/answerer`;
several that serve the same: `grpc://a:50051,b:50051/answerer`. Roles of one spec share
a model. The second command prints what a sidecar does: queue, tokens a second, errors,
cache hits by role.

Model specs: hf:///path or hf:///org/name (transformers on torch; ?threads= &batch=
&device= &dtype=), vllm:///path (GPUs; ?tensor= &data= &ray=1), openai://model@http://…/v1,
gemini://model, hf://testbed/answerer, oracle:// (the testbed's exact judge), minilm://
(sentence embeddings), scripted://file.py:function or scripted://file.json.

Beyond 127.0.0.1 it needs to know who calls: the environment variable FMD_JAX_TOKEN, the
same for both sides, or --client_ca. API keys are read from the environment, too.
"""

import sys
import time

from absl import app, flags, logging

from fmd_jax import inference
from fmd_jax.sidecar import security, server, status

_ROLES = flags.DEFINE_multi_string(
  "role", [], "name=spec; give it once per role.", short_name="r"
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Where to listen.")
_PORT = flags.DEFINE_integer("port", 50051, "0 takes a free one.", lower_bound=0)
_THREADS = flags.DEFINE_integer(
  "threads", None, "Math threads; all cores when not given.", lower_bound=1
)
_IMAGE_STORE_MB = flags.DEFINE_integer(
  "image_store_mb", 512, "Megabytes of uploaded images to keep.", lower_bound=1
)
_MAX_QUEUE = flags.DEFINE_integer(
  "max_queue",
  server.MAX_QUEUE,
  "Requests that may wait for one model; others are told to come back.",
  lower_bound=1,
)
_CACHE = flags.DEFINE_string(
  "cache", "", "Folder that keeps replies, so that none is paid for twice."
)
_CACHE_GB = flags.DEFINE_float("cache_gb", 4.0, "Gigabytes of replies to keep.")
_CERT = flags.DEFINE_string("cert", "", "PEM file of its certificate, for TLS.")
_KEY = flags.DEFINE_string("key", "", "PEM file of the certificate's key.")
_CLIENT_CA = flags.DEFINE_string(
  "client_ca", "", "PEM file: callers need a certificate signed by it (mutual TLS)."
)
_STATUS = flags.DEFINE_string(
  "status", None, "host:port[,host:port][?ca=…]: print what runs there, and end."
)
_WATCH = flags.DEFINE_float(
  "watch", 0.0, "With --status: print again every so many seconds.", lower_bound=0.0
)


def parse_roles(entries: list[str]) -> dict[str, str]:
  """`name=spec` entries as a dict; ValueError names a bad one."""
  roles = {}
  for entry in entries:
    name, found, spec = entry.partition("=")
    if not found or not name or not spec:
      raise ValueError(f"--role {entry!r} is not name=spec")
    if name in roles:
      raise ValueError(f"--role {name} is given twice")
    roles[name] = spec
  if not roles:
    raise ValueError("give at least one --role name=spec")
  return roles


def show(address: str, every: float) -> None:
  """Prints the status of one or several sidecars, once or again and again."""
  connection = inference.connect(inference.at_sidecar(address, "any"))
  while True:
    told = connection.status()
    print(status.table(told), flush=True)
    if not every:
      break
    time.sleep(every)
  if all(isinstance(answer, str) for answer in told.values()):
    sys.exit(1)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  if _STATUS.value:
    try:
      show(_STATUS.value, _WATCH.value)
    except (inference.SpecError, inference.InferenceError) as error:
      sys.exit(f"sidecar: {error}")
    except KeyboardInterrupt:  # the way out of --watch
      pass
    return
  try:
    roles = parse_roles(_ROLES.value)
  except ValueError as error:
    raise app.UsageError(str(error)) from error
  if _THREADS.value:
    server.set_threads(_THREADS.value)
  try:
    server.serve(
      roles,
      host=_HOST.value,
      port=_PORT.value,
      image_store_mb=_IMAGE_STORE_MB.value,
      max_queue=_MAX_QUEUE.value,
      cache_folder=_CACHE.value,
      cache_gb=_CACHE_GB.value,
      secure=security.from_environment(_CERT.value, _KEY.value, _CLIENT_CA.value),
      on_ready=lambda address: print(f"sidecar ready at {address}", flush=True),
      stop=server.stop_on_signals(),
    )
  except (ValueError, ImportError, OSError) as error:
    print(f"sidecar: {error}", file=sys.stderr)
    server.leave(1)
  server.leave(0)


if __name__ == "__main__":
  app.run(main)
