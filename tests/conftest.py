"""What holds for every test: CPU, no network, compiled programs kept between runs.

Set before anything imports jax, and in the environment, so that the processes a
test starts inherit it.
"""

import os
import pathlib
import sys
import tempfile

import pytest


def _cache_folder(name):
  # Beside the packages that made it, so that a new .venv starts with a new cache.
  in_venv = sys.prefix != sys.base_prefix
  base = pathlib.Path(sys.prefix if in_venv else tempfile.gettempdir())
  return str(base / name)


os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache_folder("jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", _cache_folder("hypothesis"))
if "PYTEST_XDIST_WORKER" in os.environ:
  # One pool per worker and library is more threads than a small machine has cores.
  os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def played_run(tmp_path_factory):
  """The folder of one finished run by scripted models, which nobody may change."""
  from tests.hosts_test import run

  return run(tmp_path_factory.mktemp("played"), 1)
