"""A bucket on the loopback, `gs://bucket`, for processes with its environment.

`python -m tests.gcs PORT` serves it.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from etils import epath

from tests.ports import free_port

ROOT = pathlib.Path(__file__).parents[1]
BUCKET = "gs://bucket"


@contextlib.contextmanager
def running(log: os.PathLike) -> Iterator[dict[str, str]]:
  """Serves until the block ends; yields what leads gcsfs and tensorstore there."""
  pytest.importorskip("gcp_storage_emulator")
  port = free_port()
  command = [sys.executable, "-m", "tests.gcs", str(port)]
  with open(log, "wb") as out:
    process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
  address = f"http://127.0.0.1:{port}"
  try:
    while True:
      assert process.poll() is None, pathlib.Path(log).read_text()
      with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
          break
      time.sleep(0.05)
    yield {
      "STORAGE_EMULATOR_HOST": address,
      "TENSORSTORE_GCS_HTTP_URL": address,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
      # Else each looks for a machine of Google's first.
      "NO_GCE_CHECK": "true",
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
  finally:
    process.kill()
    process.wait()


def copy(source: epath.Path, target: epath.Path) -> None:
  """A folder with all that is in it; none is left empty."""
  target.mkdir(parents=True, exist_ok=True)
  for path in source.iterdir():
    if path.is_dir():
      copy(path, target / path.name)
    else:
      (target / path.name).write_bytes(path.read_bytes())


def serve(port: int) -> None:
  from gcp_storage_emulator.exceptions import NotFound
  from gcp_storage_emulator.handlers import objects

  download = objects.download

  def download_with_generation(request, response, storage, *args, **kwargs):
    # It leaves out which version of an object it gives, without which tensorstore does
    # not replace one: "Malformed StorageGeneration".
    download(request, response, storage, *args, **kwargs)
    with contextlib.suppress(NotFound):
      found = storage.get_file_obj(
        request.params["bucket_name"], request.params["object_id"]
      )
      response["x-goog-generation"] = found["generation"]

  # Before the server puts it into its table.
  objects.download = download_with_generation
  from gcp_storage_emulator import server

  post = server.RequestHandler.do_POST

  def do_POST(self):
    # It knows no moves, and says so by a status that clients take for a passing one.
    if "/moveTo/" in self.path:
      self.send_error(400)
    else:
      post(self)

  server.RequestHandler.do_POST = do_POST
  server.create_server("127.0.0.1", port, True, default_bucket="bucket").run()


if __name__ == "__main__":
  serve(int(sys.argv[1]))
