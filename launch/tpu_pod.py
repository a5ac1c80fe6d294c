"""Runs a config on a Cloud TPU slice, of one host or of many:

  python -m launch.tpu_pod [ACTION] --name NAME --zone ZONE \\
    --accelerator_type v5litepod-16 \\
    --config configs/paper/table1.py:method=grpo --workdir gs://BUCKET/RUN \\
    [--queued] [--spot] [--sidecar_vm NAME | --sidecar_address HOST:PORT] \\
    [--config.key=value ...]

ACTION is one of
  run      create, install and start what is not there yet, then follow (the default)
  create   make the TPU VMs, or take those of that name
  install  send this checkout to all workers; packages by requirements.lock
  start    start the run on all workers
  logs     show what they print; Ctrl-C ends the showing only
  stop     end the run on all workers; it saves first and can go on
  delete   delete the TPU VMs and the GPU VM

A run that ended early (a preemption, a worker that died) goes on when the same command
is given again. `--dry_run` prints every command and runs none. Needs `gcloud`, logged
in; what it costs is Google's to say.

The models under test and the judges: `--sidecar_vm` makes (or takes) a GPU VM and
serves there all roles that the config names as local models; `--sidecar_address` takes
a running one; without either each worker serves them on its own CPUs.
"""

import sys
import time

from absl import app, flags

from launch import _checkout, _gcloud, _gpu_vm, _job, _remote
from launch._flags import parse_own_flags
from launch._shell import Shell, ToolError

_TYPE = flags.DEFINE_string("accelerator_type", None, "v5litepod-16, v6e-8, v4-32, …")
_VERSION = flags.DEFINE_string(
  "runtime_version", "v2-alpha-tpuv5-lite", "Of the TPU VM's software; fits the type."
)
_QUEUED = flags.DEFINE_bool("queued", False, "Wait in the queue for a free slice.")
_UNTIL = flags.DEFINE_string("valid_until", None, "Longest wait with --queued: 6h.")
_SHARED = flags.DEFINE_bool(
  "shared_workdir", False, "--workdir is a path that all workers share."
)
_POLL = flags.DEFINE_float("poll", 20.0, "Seconds between looks at what is waited for.")
_GRACE = flags.DEFINE_float(
  "grace", 60.0, "Seconds that the other workers get once one has failed."
)
for _module in (_job, _gcloud, _checkout, _gpu_vm):
  flags.adopt_module_key_flags(_module)
_RUN = "fmd_jax_run"
_STOP_SECONDS = 60
_GOES_ON = ("CREATING", "STARTING", "RESTARTING", "REPAIRING", "REIMAGING")
_WAITS = ("ACCEPTED", "CREATING", "PROVISIONING", "WAITING_FOR_RESOURCES")


class Pod:
  """The slice of --name and what is done with it."""

  def __init__(self, shell: Shell):
    self.shell = shell
    self.place = _gcloud.at()

  def gcloud(self, group: str, verb: str, *rest: str) -> list[str]:
    """`gcloud compute tpus GROUP VERB NAME … --zone=…`."""
    return ["gcloud", "compute", "tpus", group, verb, *rest, *self.place]

  def describe(self, group: str = "tpu-vm") -> dict | None:
    """What there is of that name; None: nothing."""
    command = self.gcloud(group, "describe", _job.NAME.value, "--format=json")
    return _gcloud.read_json(self.shell, command)

  def ssh(self, worker: int | str, text: str) -> list[str]:
    where = [f"--worker={worker}", f"--command={text}"]
    return self.gcloud("tpu-vm", "ssh", _job.NAME.value, *_gcloud.inside(), *where)

  def scp(self, path: str) -> list[str]:
    target = f"{_job.NAME.value}:{_checkout.ARCHIVE}"
    return self.gcloud("tpu-vm", "scp", path, target, *_gcloud.inside(), "--worker=all")

  def workers(self) -> int:
    """How many hosts it has.

    Raises:
      ToolError: it isn't there, or isn't ready.
    """
    found = self.describe()
    if self.shell.dry_run:
      self.shell.note("as many workers as it has endpoints; here as if it were one")
      return 1
    if found is None or found["state"] != "READY":
      state = "not there" if found is None else found["state"]
      raise ToolError(
        f"the TPU {_job.NAME.value} is {state}; the action `run` makes it"
      )
    return max(len(found["networkEndpoints"]), 1)

  # ---- what there is ---------------------------------------------------------------

  def create(self) -> None:
    """Makes the TPU VMs, or takes those of that name."""
    if not _TYPE.value:
      raise app.UsageError("--accelerator_type must be given")
    while True:
      queued = self.describe("queued-resources") if _QUEUED.value else None
      found = self.describe()
      if self.shell.dry_run or (queued is None and found is None):
        self.make()
        if self.shell.dry_run:
          return
      elif found and found["state"] == "READY":
        there = found["acceleratorType"].rpartition("/")[2]
        if there != _TYPE.value:
          raise ToolError(
            f"{_job.NAME.value} is a {there}, not a {_TYPE.value}: another --name, or "
            "`delete` it first"
          )
        self.shell.note(f"{_job.NAME.value} is there and ready")
        return
      elif found and found["state"] == "STOPPED":
        self.shell.run(self.gcloud("tpu-vm", "start", _job.NAME.value))
      else:
        state = (queued or {}).get("state", {}).get("state")
        if (found or {}).get("state") in _GOES_ON or (not found and state in _WAITS):
          self.shell.note(f"waiting: {state or found['state']}")
          time.sleep(_POLL.value)
        elif not found and state == "ACTIVE":  # its node comes a moment later
          time.sleep(_POLL.value)
        else:
          gone = (found or {}).get("state") or state
          self.shell.confirm(f"{_job.NAME.value} is {gone}: delete it and make it anew")
          self.remove(queued is not None)

  def make(self) -> None:
    """Asks for a new slice."""
    same = [
      f"--accelerator-type={_TYPE.value}",
      *_gcloud.given("network", _gcloud.NETWORK.value),
      *_gcloud.given("subnetwork", _gcloud.SUBNETWORK.value),
      *_gcloud.given("service-account", _gcloud.ACCOUNT.value),
      # Without a scope a VM can't write to a bucket.
      "--scopes=https://www.googleapis.com/auth/cloud-platform",
      *(["--internal-ips"] if _gcloud.INTERNAL.value else []),
      *(["--spot"] if _gcloud.SPOT.value else []),
    ]
    if _QUEUED.value:
      own = [f"--node-id={_job.NAME.value}", f"--runtime-version={_VERSION.value}"]
      until = _gcloud.given("valid-until-duration", _UNTIL.value)
      arguments = (_job.NAME.value, *own, *until, *same)
      self.shell.run(self.gcloud("queued-resources", "create", *arguments))
    else:
      version = f"--version={_VERSION.value}"
      self.shell.run(self.gcloud("tpu-vm", "create", _job.NAME.value, version, *same))

  def remove(self, queued: bool) -> None:
    """Deletes the slice, and with it the request that it came from."""
    if queued:
      name = (_job.NAME.value, "--force", "--quiet")
      self.shell.run(self.gcloud("queued-resources", "delete", *name))
    else:
      self.shell.run(self.gcloud("tpu-vm", "delete", _job.NAME.value, "--quiet"))

  # ---- what runs on it -------------------------------------------------------------

  def install(self) -> None:
    """Sends this checkout to all workers and installs the pinned packages there."""
    with _checkout.packed(self.shell) as path:
      self.shell.run(self.scp(path))
    self.shell.run(self.ssh("all", _checkout.install_text()))

  def start(self, job: _job.Job, variables: dict[str, str]) -> None:
    """Starts the run on all workers, with these environment variables."""
    if self.workers() > 1 and "://" not in job.workdir and not _SHARED.value:
      raise ToolError(
        f"--workdir {job.workdir} is on each worker's own disk: use gs://BUCKET/PATH, "
        "or say --shared_workdir if it is a mounted disk of them all"
      )
    command = job.command(_checkout.PYTHON, "--coordinator=auto")
    command = _job.with_environment(command, variables)
    text = _remote.start(_RUN, _checkout.FOLDER, command)
    try:
      self.shell.run(self.ssh("all", text))
    except ToolError as error:
      raise ToolError(
        f"{error}\nA run that is under way: `logs` follows it, `stop` ends it."
      ) from None

  def logs(self) -> int:
    """Shows what the workers print; returns the exit code for this program."""
    workers = self.workers()
    if self.shell.dry_run:
      self.shell.note("for each worker, side by side:")
      self.shell.run(self.ssh(0, _remote.follow(_RUN)))
      return 0
    try:
      ends = _remote.follow_all(self.ssh, workers, _RUN, _GRACE.value, _POLL.value)
    except KeyboardInterrupt:
      print("\nThe run goes on. `logs` shows it again, `stop` ends it.")
      return 130
    bad = {w: end for w, end in ends.items() if end.code != 0}
    if not bad:
      return 0
    self.shell.note("ending what still runs")
    # The machine itself may be gone: then there is nothing to end.
    self.shell.run(self.ssh("all", _remote.stop(_RUN, _STOP_SECONDS)), fails=True)
    print(f"error: {self.verdict(bad, workers)}", file=sys.stderr)
    stopped = all(end.code == _job.STOPPED for end in bad.values())
    return _job.STOPPED if stopped else 1

  def verdict(self, bad: dict[int, _remote.End], workers: int) -> str:
    """Which worker ended the run, and what to do about it."""
    worker, end = next(iter(bad.items()))
    if end.code is None:
      state = (self.describe() or {"state": "gone"})["state"]
      how = f"was lost (the TPU is {state})"
    elif end.code == _job.STOPPED:
      how = "was asked to stop and saved what it had"
    else:
      how = f"ended with exit code {end.code}"
      if end.code > 128:
        how += f" (killed by signal {end.code - 128})"
    others = [f"worker {w}: exit code {e.code}" for w, e in list(bad.items())[1:]]
    return (
      f"worker {worker} of {workers} {how}: {end.said or 'no output'}\n"
      + (f"After it {', '.join(others)}.\n" if others else "")
      + "The same command goes on from the last checkpoint:\n  "
      + _job.again("launch.tpu_pod", sys.argv)
    )

  def stop(self) -> None:
    """Ends the run on all workers."""
    self.shell.confirm(f"end the run on all workers of {_job.NAME.value}")
    said = self.shell.run(self.ssh("all", _remote.stop(_RUN, _STOP_SECONDS)))
    print(said.strip())


def main(argv: list[str]) -> None:
  action = _job.read_action(argv, _ACTIONS)
  if not _gcloud.ZONE.value:
    raise app.UsageError("--zone must be given")
  shell = Shell(_job.DRY_RUN.value, _job.YES.value)
  try:
    raise SystemExit(_ACTIONS[action](Pod(shell), argv))
  except ToolError as error:
    raise SystemExit(f"error: {error}") from None


def _run(pod: Pod, argv: list[str]) -> int:
  job = _job.read_job(argv)  # first: a typo must not cost a slice
  _create(pod, argv)
  _install(pod, argv)
  _start(pod, argv, job)
  return pod.logs()


def _create(pod: Pod, argv: list[str]) -> None:
  pod.create()
  if _gpu_vm.NAME.value:
    _gpu_vm.GpuVm(pod.shell).create()


def _install(pod: Pod, argv: list[str]) -> None:
  pod.install()
  if _gpu_vm.NAME.value:
    _gpu_vm.GpuVm(pod.shell).install()


def _start(pod: Pod, argv: list[str], job: _job.Job | None = None) -> None:
  job = job or _job.read_job(argv)
  serves = bool(_gpu_vm.NAME.value and job.served)
  variables = _job.environment(pod.shell.dry_run, serves)
  if serves:
    job = job.at_sidecar(_gpu_vm.GpuVm(pod.shell).serve(job.served, variables))
  pod.start(job, variables)


def _delete(pod: Pod, argv: list[str]) -> None:
  names = " and ".join(filter(None, (_job.NAME.value, _gpu_vm.NAME.value)))
  pod.shell.confirm(f"delete {names}, with all that is on their disks")
  pod.remove(_QUEUED.value)
  if _gpu_vm.NAME.value:
    pod.shell.run(_gpu_vm.GpuVm(pod.shell).instances("delete", "--quiet"))


_ACTIONS = {
  "run": _run,
  "create": _create,
  "install": _install,
  "start": _start,
  "logs": lambda pod, argv: pod.logs(),
  "stop": lambda pod, argv: pod.stop(),
  "delete": _delete,
}

if __name__ == "__main__":
  app.run(main, flags_parser=parse_own_flags)
