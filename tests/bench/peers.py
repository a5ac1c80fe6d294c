"""The environment and the process that the PyTorch peers run in."""

import json
import os
import pathlib
import subprocess
import sys
import venv
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
# torch is named so that no build of several gigabytes is resolved; requirements.lock
# constrains what both environments have.
PINS = (
  "torch==2.13.0",
  "transformers==5.23.0",
  "trl==1.16.0",
  "accelerate==1.15.0",
  "datasets==5.2.0",
  "pillow==13.0.0",
)


def environment(folder: str | pathlib.Path | None = None) -> pathlib.Path:
  """Makes the peers' virtual environment, once, and says so.

  Args:
    folder: None is ~/.cache/fmd_jax/bench-venv.

  Returns:
    its Python.

  Raises:
    subprocess.CalledProcessError: pip failed; it has said why.
  """
  folder = pathlib.Path(folder or "~/.cache/fmd_jax/bench-venv").expanduser()
  python, stamp = folder / "bin" / "python", folder / "fmd_jax.stamp"
  if stamp.is_file() and stamp.read_text() == "\n".join(PINS):
    return python
  print(f"Making {folder} (once, about 2 GB, a few minutes): {' '.join(PINS)}")
  venv.create(folder, with_pip=True, clear=True)
  command = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
  lock = ROOT / "requirements.lock"
  subprocess.run([*command, "-c", lock, *PINS], check=True)
  stamp.write_text("\n".join(PINS))
  return python


class Peers:
  """`torch_peer.py` in a process of its own, as a context manager."""

  def __init__(self, python: pathlib.Path, threads: int):
    self._process = subprocess.Popen(
      [python, "-P", pathlib.Path(__file__).with_name("torch_peer.py")],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""},
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.stdin.close()
    try:
      self._process.wait(60)
    except subprocess.TimeoutExpired:
      self._process.kill()

  def __call__(self, order: str, argument: Any) -> dict[str, Any]:
    """Gives an order of `torch_peer.Server` and waits for its answer."""
    print(json.dumps([order, argument]), file=self._process.stdin, flush=True)
    answer = self._process.stdout.readline()
    if not answer:
      sys.exit(f"the peers' process ended: code {self._process.wait()}; see above")
    return json.loads(answer)
