"""A cloud of folders for the launchers' tests, with fakes of its tools on PATH."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
SLURM = ("sbatch", "squeue", "scancel", "scontrol", "srun")
FAKES = {"gcloud": "gcloud", "kubectl": "kubectl"} | dict.fromkeys(SLURM, "slurm")
# In the place of launch.discover and launch.sidecar on every machine. The first attempt
# of a run whose $FAKE_CLOUD/die names a worker: that one dies once the other of the two
# would save, which waits for it, as JAX would, until it is told to stop.
PROGRAM = """#!/bin/bash
echo "${FMD_JAX_TOKEN-none}" > "$HOME/token"
case "$2" in launch.sidecar)
  trap 'echo sidecar stopped; exit 0' TERM
  echo "$@" > "$HOME/served"
  echo "sidecar ready at 0.0.0.0:50051"
  while true; do sleep 0.1; done;;
esac
case "$*" in *sidecar.address=gpu7*)  # a trainer waits for its sidecar
  until [ -f "$FAKE_CLOUD/task-0/1/served" ]; do sleep 0.05; done;;
esac
printf '%s\\n' "$*" >> "$HOME/started"
attempt=$(wc -l < "$HOME/started")
trap 'echo "saved at step 7"; touch "$HOME/checkpoint"; exit 75' TERM
echo "$TPU_WORKER_ID" >> "$FAKE_CLOUD/under_way"
if [ -f "$HOME/checkpoint" ]; then echo "goes on at step 7"; else echo "step 0"; fi
if [ "$attempt" = 1 ] && [ -f "$FAKE_CLOUD/die" ]; then
  if [ "$(cat "$FAKE_CLOUD/die")" = "$TPU_WORKER_ID" ]; then
    until [ "$(wc -l < "$FAKE_CLOUD/under_way")" -ge 2 ]; do sleep 0.05; done
    trap "" TERM  # it is lost from here on
    echo "RuntimeError: out of luck" >&2
    kill -KILL $$
  fi
  while true; do sleep 0.1; done
fi
echo "finished"
"""


def hear_interrupts() -> None:
  """For a child: tests that run in the background of a shell ignore Ctrl-C."""
  signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(process, text, times=1):
  """Reads what a launcher prints up to the line that has a text so many times."""
  seen = []
  for line in process.stdout:
    seen.append(line)
    times -= text in line
    if not times:
      return
  raise AssertionError(f"no {text!r} in {seen}; {process.communicate(timeout=60)[1]}")


class Cloud:
  """The folder of the cloud, and the launchers run against it."""

  def __init__(self, folder, *tools):
    self.folder, self.tools = folder, tools
    folder.mkdir()
    (folder / "python").write_text(PROGRAM)
    (folder / "bin").mkdir()
    for tool in tools:
      path = folder / "bin" / tool
      module = f"tests.launch.fake_{FAKES[tool]}"
      path.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} {tool} "$@"\n')
      path.chmod(0o755)
    self.set({"nodes": {}, "queued": {}, "instances": {}, "queue": []})
    self.change(unreachable=[])

  def set(self, state):
    new = self.folder / "state.new"
    new.write_text(json.dumps(state))
    new.rename(self.folder / "state.json")  # a tool may be reading it

  @property
  def state(self):
    return json.loads((self.folder / "state.json").read_text())

  def change(self, **values):
    self.set(self.state | values)

  @property
  def environment(self):
    # Without fakes nothing is found: the real tools may be on this machine.
    own = str(self.folder / "bin")
    path = os.pathsep.join([own, os.environ["PATH"]]) if self.tools else own
    return os.environ | {
      "PATH": path,
      "FAKE_CLOUD": str(self.folder),
      "PYTHONPATH": str(ROOT),
      "PYTHONDONTWRITEBYTECODE": "1",
    }

  def command(self, launcher, *arguments):
    return [sys.executable, "-m", f"launch.{launcher}", *arguments]

  def start(self, launcher, *arguments):
    """A launcher that goes on beside the test; `end` ends it."""
    return subprocess.Popen(
      self.command(launcher, *arguments),
      cwd=ROOT,
      env=self.environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      preexec_fn=hear_interrupts,
    )

  def end(self):
    """Kills whatever a test that failed has left on the machines."""
    mark = f"FAKE_CLOUD={self.folder}".encode()
    found = True
    while found:  # one may start another in between
      found = False
      for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
          if mark in path.read_bytes().split(b"\0"):
            os.kill(int(path.parent.name), signal.SIGKILL)
            found = True

  def run(self, launcher, *arguments, stdin=""):
    return subprocess.run(
      self.command(launcher, *arguments),
      cwd=ROOT,
      env=self.environment,
      input=stdin,
      capture_output=True,
      text=True,
      timeout=120,
    )

  def calls(self):
    """The arguments of every call of a tool."""
    path = self.folder / "calls"
    return (
      [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    )

  def lines(self, *path):
    """The lines of a file on one of the machines."""
    return self.folder.joinpath(*path).read_text().splitlines()
