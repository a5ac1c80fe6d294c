"""Every launcher tells what it does and which flags it has, and starts nothing."""

import ast
import json
import subprocess
import sys

from tests.launch.cloud import ROOT

# One process that forks: to start Python for each takes as long as all of them do.
ASK = """
import json, sys
from absl import app, flags, logging
from ml_collections import config_flags
from tests import commands
json.dump([commands.run([f"launch.{n}", "--help"]) for n in sys.argv[1:]], sys.stdout)
"""


def test_each_launcher_has_help():
  paths = [p for p in sorted((ROOT / "launch").glob("*.py")) if p.stem[0] != "_"]
  names = [path.stem for path in paths]
  assert {"discover", "gke", "slurm", "sweep", "tpu_pod", "status"} <= set(names)
  done = subprocess.run(
    [sys.executable, "-c", ASK, *names],
    cwd=ROOT, capture_output=True, text=True, check=True,
  )  # fmt: skip
  for path, (code, shown) in zip(paths, json.loads(done.stdout), strict=True):
    assert code == 1, path  # as absl has it
    assert "Traceback" not in shown, path
    # Wrong: a module without a word about itself, or with others' flags only.
    first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
    assert first in shown, path
    assert f"{path}:\n" in shown, path
