"""Plays sbatch, squeue, scancel, scontrol and srun: takes what the real ones take.

A job is a process of this machine, started by sbatch. $FAKE_CLOUD/jobs/ID has its
script, pid and exit code; srun runs two tasks of the test's program in its place.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

from tests.launch import grammar

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
JOBS = CLOUD / "jobs"
ID = "101"


def alive(job):
  return not (job / "exit").exists()


def start(job, options):
  log = options[0]["--output"].replace("%j", ID)
  (job / "exit").unlink(missing_ok=True)
  text = f'bash "{job}/script" >> "{log}" 2>&1; echo $? > "{job}/exit.new"; '
  text += f'mv "{job}/exit.new" "{job}/exit"'
  environment = os.environ | {
    "SLURM_JOB_ID": ID,
    "SLURM_JOB_NODELIST_HET_GROUP_1": "gpu[7-7]",
  }
  process = subprocess.Popen(
    ["setsid", "bash", "-c", text],
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  (job / "pid").write_text(str(process.pid))


def sbatch(_, flags):
  script = sys.stdin.read()
  options = grammar.batch_script(script)
  job = JOBS / ID
  job.mkdir(parents=True, exist_ok=True)
  (job / "script").write_text(script)
  (job / "name").write_text(options[0]["--job-name"])
  start(job, options)
  print(f"{ID};cluster" if "--parsable" in flags else f"Submitted batch job {ID}")


def squeue(_, flags):
  if "--jobs" in flags and (CLOUD / "busy").exists():
    (CLOUD / "busy").unlink()
    sys.exit("slurm_load_jobs error: Socket timed out on send/recv operation")
  for job in sorted(JOBS.iterdir()) if JOBS.exists() else ():
    if flags.get("--jobs", job.name) != job.name:
      continue
    if "--name" in flags and (job / "name").read_text() != flags["--name"]:
      continue
    if not alive(job) and flags.get("--states") != "all":
      continue
    code = (job / "exit").read_text().strip() if not alive(job) else None
    state = {None: "RUNNING", "0": "COMPLETED"}.get(code, "FAILED")
    print(flags["--format"].replace("%A", job.name).replace("%T", state))


def scancel(names, flags):
  """SIGTERM to the batch shell, as `--signal=B:TERM@…` and scancel give it."""
  group = int((JOBS / names[0] / "pid").read_text())
  children = pathlib.Path(f"/proc/{group}/task/{group}/children").read_text().split()
  for child in children:
    os.kill(int(child), signal.SIGTERM)


def scontrol(names, _):
  if names[:2] == ["show", "hostnames"]:
    print(names[2].partition("[")[0] + "7")
  else:
    (CLOUD / "requeued").write_text(names[1])


def srun(command, flags):
  """One task a worker; SIGTERM goes on to all of them."""
  workers = 1 if flags.get("--het-group") == "1" else 2
  tasks = []
  signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
  for worker in range(workers):
    home = CLOUD / f"task-{worker}" / flags.get("--het-group", "0")
    home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"HOME": str(home), "TPU_WORKER_ID": str(worker)}
    program = ["bash", str(CLOUD / "python"), *command[1:]]
    tasks.append(subprocess.Popen(program, env=environment))
  codes = [task.wait() for task in tasks]
  codes = [128 - code if code < 0 else code for code in codes]
  for worker, code in enumerate(codes):
    if code:
      message = (
        f"srun: error: node{worker}: task {worker}: Exited with exit code {code}"
      )
      print(message, file=sys.stderr)
  sys.exit(max(codes))


def main():
  tool, arguments = sys.argv[1], sys.argv[2:]
  with open(CLOUD / "calls", "a") as calls:
    calls.write(json.dumps([tool, *arguments]) + "\n")
  try:
    names, flags = grammar.slurm(tool, arguments)
    globals()[tool](names, flags)
  except grammar.UsageError as error:
    print(f"{tool}: error: {error}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  main()
