"""A sidecar as a child process: started, watched and ended by its parent."""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from absl import logging

import fmd_jax
from fmd_jax.inference import InferenceError

_LOG_LINES = 20


class Sidecar:
  """A running sidecar; as a context manager it is stopped at the end.

  Attributes:
    address: host:port.
    roles: role -> the model spec that it serves.
    log: the file that its log goes to.
  """

  def __init__(
    self,
    process: subprocess.Popen,
    address: str,
    roles: Mapping[str, str],
    log: pathlib.Path,
  ):
    self._process = process
    self.address, self.roles, self.log = address, dict(roles), log

  @property
  def pid(self) -> int:
    return self._process.pid

  def spec(self, role: str) -> str:
    """The spec under which a client reaches a role."""
    if role not in self.roles:
      raise KeyError(f"the sidecar has no role {role!r}; it has {list(self.roles)}")
    return f"grpc://{self.address}/{role}"

  def alive(self) -> bool:
    return self._process.poll() is None

  def check(self) -> None:
    """Raises InferenceError, with the end of its log, when it has ended."""
    if not self.alive():
      raise InferenceError(_ended(self._process, self.log))

  def stop(self) -> None:
    """Ends it: SIGTERM, and SIGKILL after five seconds. A second call is nothing."""
    if self.alive():
      self._process.terminate()
      try:
        self._process.wait(5.0)
      except subprocess.TimeoutExpired:
        self._process.kill()
    self._process.wait()

  def __enter__(self) -> "Sidecar":
    return self

  def __exit__(self, *_) -> None:
    self.stop()


def start(
  roles: Mapping[str, str],
  *,
  log: str | os.PathLike[str],
  host: str = "127.0.0.1",
  port: int = 0,
  threads: int | None = None,
  image_store_mb: int = 512,
  cache_folder: str = "",
  cache_gb: float = 4.0,
  timeout: float = 300.0,
) -> Sidecar:
  """Starts a sidecar and returns once all its models are loaded.

  It stays in the caller's process group and ends when the caller does, however
  that happens.

  Args:
    roles: role -> model spec; roles of one spec share a model.
    log: the file its log is appended to.
    host: where it listens.
    port: 0 takes a free one.
    threads: the math threads of its models; None leaves their own choice.
    image_store_mb: megabytes of images that it keeps.
    cache_folder, cache_gb: where replies are kept ("": nowhere), and how many.
    timeout: seconds for loading.

  Raises:
    InferenceError: it ended before it was ready, or was too slow; the message has
      the last lines of its log.
  """
  log = pathlib.Path(log)
  log.parent.mkdir(parents=True, exist_ok=True)
  read_fd, write_fd = os.pipe()
  options = {
    "roles": dict(roles),
    "host": host,
    "port": port,
    "threads": threads,
    "image_store_mb": image_store_mb,
    "cache_folder": cache_folder,
    "cache_gb": cache_gb,
    "parent": os.getpid(),
    "ready_fd": write_fd,
  }
  # The child finds this very package, installed or not.
  root = str(pathlib.Path(fmd_jax.__file__).parents[1])
  environment = {
    # Torch's threads spin while they wait for each other: with another program on the
    # cores, the trainer for one, a batch of 0.1 s then takes 1 to 3 s (LOG.md).
    "OMP_WAIT_POLICY": "PASSIVE",
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
  }
  logging.info("starting a sidecar for %s; its log: %s", ", ".join(roles), log)
  begun = time.monotonic()
  command = [sys.executable, "-m", "fmd_jax.sidecar.server", json.dumps(options)]
  try:
    with open(log, "ab") as out:
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(write_fd,),
      )
    # Closed here, so that the pipe ends when the child does.
    os.close(write_fd)
    address = _read_address(read_fd, timeout)
  finally:
    os.close(read_fd)
  if not address:
    slow = process.poll() is None and time.monotonic() - begun >= timeout
    if slow:
      process.kill()
    process.wait()
    if slow:
      raise InferenceError(
        f"the sidecar was not ready after {timeout:.0f} s{_tail(log)}"
      )
    raise InferenceError(_ended(process, log))
  logging.info("sidecar at %s is ready after %.1f s", address, time.monotonic() - begun)
  return Sidecar(process, address, roles, log)


def _read_address(read_fd: int, timeout: float) -> str:
  """The line that the child writes when it is ready; "" if it never does."""
  ready, _, _ = select.select([read_fd], [], [], timeout)
  # One short write is one read.
  return os.read(read_fd, 1024).decode().strip() if ready else ""


def _ended(process: subprocess.Popen, log: pathlib.Path) -> str:
  code = process.returncode
  how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
  return f"the sidecar ended with {how}{_tail(log)}"


def _tail(log: pathlib.Path) -> str:
  lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
  return "".join(["; the end of its log:", *(f"\n  {line}" for line in lines)])
