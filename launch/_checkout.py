"""This checkout on another machine, with the packages of requirements.lock."""

import pathlib
import subprocess
import tarfile
import tempfile

from absl import flags

from launch._job import ROOT
from launch._shell import Shell, ToolError

SETUP = flags.DEFINE_string(
  "setup",
  "command -v python3.11 python3.12 python3.13 || { sudo apt-get update && "
  "sudo apt-get install -y python3.11 python3.11-venv; }",
  "Run on each VM before the packages are installed.",
)
FOLDER = "fmd_jax"  # in the home directory over there
ARCHIVE = f"{FOLDER}.tar.gz"
PYTHON = ".venv/bin/python"


class packed:
  """This checkout, without what git ignores, as a file that is there for a moment."""

  def __init__(self, shell: Shell):
    self._shell = shell

  def __enter__(self) -> str:
    self._shell.note(f"{ARCHIVE}: the files of {ROOT} that git knows")
    if self._shell.dry_run:
      return ARCHIVE
    self._folder = tempfile.TemporaryDirectory()
    path = pathlib.Path(self._folder.name) / ARCHIVE
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
      raise ToolError(f"{ROOT} is no git checkout: {listed.stderr.strip()}")
    with tarfile.open(path, "w:gz") as archive:
      for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():  # deleted and not committed yet
          archive.add(ROOT / name, name)
    return str(path)

  def __exit__(self, *_) -> None:
    if not self._shell.dry_run:
      self._folder.cleanup()


def install_text(after: str | None = None) -> str:
  """Unpacks the checkout and makes its .venv of requirements.lock, once."""
  lines = [
    "set -e",
    f'mkdir -p "$HOME/{FOLDER}" && cd "$HOME/{FOLDER}"',
    f'tar -xzf "$HOME/{ARCHIVE}"',
    f"({SETUP.value}) >&2",
    "bash -c 'source launch/_env.sh'",
    *([after] if after else []),
  ]
  return "\n".join(lines)
