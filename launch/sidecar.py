"""Serves models to a run in another process, or on another machine.

  python -m launch.sidecar --role answerer=hf:///path/to/Qwen2.5-VL-3B \\
    --role verifier=oracle:// --role embedder=minilm:// --port 50051

A run then names them in its config: `--config.roles.answerer=grpc://host:50051/answerer`.

Model specs: hf:///path or hf:///org/name (transformers on torch; ?threads= &batch=
&device= &dtype=), hf://testbed/answerer, oracle:// (the testbed's exact judge),
minilm:// (sentence embeddings), scripted://file.py:function or scripted://file.json.

There is no authentication: listen beyond 127.0.0.1 on trusted networks only.
"""

import sys

from absl import app, flags, logging

from fmd_jax import inference
from fmd_jax.sidecar import server

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


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  try:
    roles = parse_roles(_ROLES.value)
  except ValueError as error:
    raise app.UsageError(str(error)) from error
  logging.set_verbosity(logging.INFO)
  if _THREADS.value:
    server.set_threads(_THREADS.value)
  try:
    server.serve(
      roles,
      host=_HOST.value,
      port=_PORT.value,
      image_store_mb=_IMAGE_STORE_MB.value,
      on_ready=lambda address: print(f"sidecar ready at {address}", flush=True),
      stop=server.stop_on_signals(),
    )
  except (inference.SpecError, OSError) as error:
    print(f"sidecar: {error}", file=sys.stderr)
    server.leave(1)
  server.leave(0)


if __name__ == "__main__":
  app.run(main)
