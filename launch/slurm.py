"""Runs a config on the GPUs of a SLURM cluster:

  python -m launch.slurm [ACTION] --name NAME --nodes 2 --gpus_per_node 8 \\
    --config configs/paper/table1.py:method=grpo --workdir /shared/RUN \\
    [--sidecar_gpus 1 | --sidecar_address HOST:PORT] [--sbatch=--partition=a100 ...] \\
    [--config.key=value ...]

ACTION is one of
  run     submit the job, or take the one of that name, and follow it (the default)
  script  print what would be submitted
  logs    follow the job of that name; Ctrl-C ends the showing only
  stop    end the job; it saves first and can go on

One task for each GPU. With `--sidecar_gpus` a further node serves all roles that the
config names as local models. Before its time is over the job saves what it has and goes
back into the queue; a job that ended otherwise goes on when the same command is given
again. `--dry_run` prints every command and runs none.

Start it where sbatch is, from a checkout that all nodes see, by the python of an
environment that they see too:
  bash -c 'source launch/_env.sh' && source .venv/bin/activate && \\
    pip install -c requirements.lock 'jax[cuda12]'
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

from absl import app, flags

from launch import _job
from launch._flags import parse_own_flags
from launch._shell import Shell, ToolError

_NODES = flags.DEFINE_integer("nodes", 1, "Machines to train on.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus_per_node", 8, "Of each of them.", lower_bound=1)
_SIDECAR_GPUS = flags.DEFINE_integer("sidecar_gpus", 0, "Of one more node, to serve.")
_TIME = flags.DEFINE_string("time", "24:00:00", "Longest; then it is queued again.")
_SBATCH = flags.DEFINE_multi_string(
  "sbatch", [], "A further option of sbatch, for all nodes: --sbatch=--account=NAME."
)
_SETUP = flags.DEFINE_string("setup", None, "Run first in the job: module load cuda")
_POLL = flags.DEFINE_float("poll", 10.0, "Seconds between looks at the job.")
flags.adopt_module_key_flags(_job)
_SAVE_SECONDS = 180  # before the end of its time
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def log_folder(workdir: str) -> pathlib.Path:
  """Where the job's output goes: the workdir; for one that is no folder, runs/NAME."""
  if "://" in workdir:
    return _job.ROOT / "runs" / _job.NAME.value
  return pathlib.Path(workdir).absolute()


def script(job: _job.Job) -> str:
  """The batch script of a run."""
  log = log_folder(job.workdir) / "slurm-%j.log"
  nodes = [f"--nodes={_NODES.value}"]
  options = [
    f"--job-name={_job.NAME.value}",
    *nodes,
    # JAX takes one task for one GPU here; each still sees those of its node.
    f"--ntasks-per-node={_GPUS.value}",
    f"--gpus-per-node={_GPUS.value}",
    f"--time={_TIME.value}",
    f"--output={log}",
    "--open-mode=append",
    "--requeue",
    f"--signal=B:TERM@{_SAVE_SECONDS}",
    *_SBATCH.value,
  ]
  lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
  served = bool(_SIDECAR_GPUS.value and job.served)
  if served:
    one = ["--nodes=1", "--ntasks=1", f"--gpus-per-node={_SIDECAR_GPUS.value}"]
    more = [*one, *_SBATCH.value]
    lines += ["#SBATCH hetjob", *(f"#SBATCH {option}" for option in more)]
  lines += [f"cd {shlex.quote(str(_job.ROOT))} || exit", "export PYTHONUNBUFFERED=1"]
  lines += [_SETUP.value] if _SETUP.value else []
  group = ""
  if served:
    port = _job.SIDECAR_PORT
    command = shlex.join(_job.sidecar_command(sys.executable, job.served, port))
    lines += [
      f"srun --het-group=1 {command} &",
      "sidecar=$!",
      'host="$(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_1" | head -n 1)"',
    ]
    group, job = "--het-group=0 ", job.at_sidecar(f"SIDECAR:{port}")
  command = shlex.join(job.command(sys.executable, "--coordinator=auto"))
  command = command.replace("SIDECAR:", '"$host":') if served else command
  lines += [
    # One that has ended leaves the others time to save, then they are ended too.
    f"srun {group}--label --kill-on-bad-exit=0 --wait={_SAVE_SECONDS} {command} &",
    "trainer=$!",
    "trap 'kill -TERM $trainer' TERM",
    "wait $trainer; code=$?",
    # A trap ends `wait` early; a second one tells the code of what has ended since.
    "while kill -0 $trainer 2>/dev/null; do wait $trainer; code=$?; done",
    "[ $code -le 128 ] || { wait $trainer; again=$?; [ $again -eq 127 ] || "
    "code=$again; }",
    'echo "fmd_jax: exit code $code"',
    *(["kill $sidecar; wait $sidecar"] if served else []),
    f'[ $code -ne {_job.STOPPED} ] || scontrol requeue "$SLURM_JOB_ID"',
    "exit $code",
  ]
  return "\n".join(lines) + "\n"


def find(shell: Shell) -> str | None:
  """The id of the job of that name that waits or runs."""
  own = ("--me", f"--name={_job.NAME.value}", "--format=%A")
  found = shell.run(["squeue", "--noheader", *own], looks=True)
  return found.split()[0] if found and found.strip() else None


def run(shell: Shell, argv: list[str]) -> int:
  """Submits the job unless it is there, and follows it."""
  job = _job.read_job(argv)
  folder, text = log_folder(job.workdir), script(job)
  number = find(shell)
  if number:
    shell.note(f"{_job.NAME.value} is there already: job {number}")
    return follow(shell, number, folder)
  if shell.dry_run:
    print(f"sbatch --parsable <<'END'\n{text}END")
    return follow(shell, "JOB", folder)
  folder.mkdir(parents=True, exist_ok=True)
  # sbatch hands this environment on to the job, and no secret gets into the script.
  os.environ.update(_job.environment(False, bool(_SIDECAR_GPUS.value)))
  said = shell.run(["sbatch", "--parsable"], stdin=text)
  number = said.strip().partition(";")[0]
  shell.note(f"job {number}")
  return follow(shell, number, folder)


def state(shell: Shell, number: str) -> str:
  """What the job does; "GONE" when SLURM knows it no more.

  A controller that is busy for a while is asked until it answers.
  """
  wanted = ("--noheader", f"--jobs={number}", "--states=all", "--format=%T")
  while True:
    done = subprocess.run(["squeue", *wanted], capture_output=True, text=True)
    if done.returncode == 0 or "Invalid job id" in done.stderr:
      return done.stdout.split()[0] if done.stdout.strip() else "GONE"
    shell.note(f"squeue: {done.stderr.strip()[-300:]}; asked again")
    time.sleep(_POLL.value)


def follow(shell: Shell, number: str, folder: pathlib.Path) -> int:
  """Shows the job's output until it is over; the exit code for this program."""
  log = folder / f"slurm-{number}.log"
  if shell.dry_run:
    return shell.stream(["tail", "-n", "+1", "-F", str(log)])
  shell.note(f"its output: {log}")
  place, last, tail = 0, "", b""
  try:
    while True:
      now = state(shell, number)
      if now != last:
        shell.note(f"job {number}: {now}")
        last = now
      if log.exists():
        with open(log, "rb") as file:
          file.seek(place)
          new = file.read()
        place += len(new)
        tail = (tail + new)[-20000:]
        sys.stdout.write(new.decode(errors="replace"))
        sys.stdout.flush()
      if now in _OVER or now == "GONE":
        return verdict(tail.decode(errors="replace"), number, now)
      time.sleep(_POLL.value)
  except KeyboardInterrupt:
    print("\nThe job goes on. `logs` shows it again, `stop` ends it.")
    return 130


def verdict(tail: str, number: str, state: str) -> int:
  """The exit code for this program; says which task ended the run, and the cure."""
  codes = re.findall(r"^fmd_jax: exit code (\d+)$", tail, re.MULTILINE)
  if state == "COMPLETED" or (state == "GONE" and codes[-1:] == ["0"]):
    return 0
  # "srun: error: node2: task 9: Exited with exit code 1"
  first = re.search(r"^srun: error: (\S+: tasks? .*)$", tail, re.MULTILINE)
  why = f"; first {first[1]}" if first else ""
  print(
    f"error: job {number} is {state}{why}\n"
    "The same command goes on from the last checkpoint:\n  "
    + _job.again("launch.slurm", sys.argv),
    file=sys.stderr,
  )
  return 1


def logs(shell: Shell, argv: list[str]) -> int:
  """Follows the job of that name."""
  number = find(shell)
  if number is None and not shell.dry_run:
    raise ToolError(f"no job {_job.NAME.value} waits or runs")
  if not _job.WORKDIR.value:
    raise app.UsageError("--workdir must be given")
  return follow(shell, number or "JOB", log_folder(_job.WORKDIR.value))


def stop(shell: Shell, argv: list[str]) -> None:
  """Ends the job of that name."""
  number = find(shell)
  if number is None and not shell.dry_run:
    raise ToolError(f"no job {_job.NAME.value} waits or runs")
  shell.confirm(f"end the job {_job.NAME.value} ({number or 'JOB'})")
  shell.run(["scancel", number or "JOB"])


def main(argv: list[str]) -> None:
  action = _job.read_action(argv, _ACTIONS)
  shell = Shell(_job.DRY_RUN.value, _job.YES.value)
  try:
    raise SystemExit(_ACTIONS[action](shell, argv))
  except ToolError as error:
    raise SystemExit(f"error: {error}") from None


_ACTIONS = {
  "run": run,
  "script": lambda shell, argv: print(script(_job.read_job(argv)), end=""),
  "logs": logs,
  "stop": stop,
}

if __name__ == "__main__":
  app.run(main, flags_parser=parse_own_flags)
