"""Runs a config on TPUs and GPUs of a GKE cluster, as a JobSet:

  python -m launch.gke [ACTION] --name NAME --image IMAGE --topology v5e:4x4 \\
    --config configs/paper/table1.py:method=grpo --workdir gs://BUCKET/RUN \\
    [--sidecar_gpu nvidia-l4:1 | --sidecar_address HOST:PORT] [--spot] \\
    [--config.key=value ...]

ACTION is one of
  run       apply the manifest and follow the workers to their end (the default)
  manifest  print it: TPU workers, GPU sidecar, headless service
  logs      follow the workers; Ctrl-C ends the showing only
  delete    delete the JobSet, the service and the secret

The image holds this checkout and its packages (`launch/Dockerfile`). With
`--sidecar_gpu` all roles that the config names as local models are served by a GPU pod.
When a pod fails or is taken away, the whole set starts again, up to --restarts times,
and goes on from the last checkpoint; after that the same command does.

`--dry_run` prints every command and runs none. Needs `kubectl`, a cluster with the
JobSet controller, and node pools of the slice's topology and of the GPU.
"""

import json
import shlex
import sys
import time

from absl import app, flags

from launch import _job, _jobset
from launch._flags import parse_own_flags
from launch._shell import Shell, ToolError

_IMAGE = flags.DEFINE_string("image", None, "Holds this checkout: launch/Dockerfile.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Of the slice: v5e:4x4, v6e:2x4, …")
_CHIPS = flags.DEFINE_integer("chips_per_host", 4, "Of the node pool's machines.")
_GPU = flags.DEFINE_string("sidecar_gpu", None, "A sidecar's GPU: nvidia-l4:1.")
_SPOT = flags.DEFINE_bool("spot", False, "On machines that may be taken away.")
_RESTARTS = flags.DEFINE_integer("restarts", 10, "Of the set, when a pod has failed.")
_NAMESPACE = flags.DEFINE_string("namespace", None, "kubectl's own when not given.")
_CONTEXT = flags.DEFINE_string("context", None, "kubectl's own when not given.")
_ACCOUNT = flags.DEFINE_string("service_account", None, "Of the pods.")
_POLL = flags.DEFINE_float("poll", 10.0, "Seconds between looks at the JobSet.")
flags.adopt_module_key_flags(_job)
# In the image, see launch/Dockerfile.
_PYTHON = ".venv/bin/python"


def kubectl(*arguments: str) -> list[str]:
  """A command of kubectl in the chosen cluster and namespace."""
  own = [f"--context={_CONTEXT.value}"] if _CONTEXT.value else []
  own += [f"--namespace={_NAMESPACE.value}"] if _NAMESPACE.value else []
  return ["kubectl", *arguments, *own]


def make(argv: list[str], shown: bool) -> dict:
  """The manifest that the flags describe; one that is shown keeps secrets back."""
  missing = [f"--{f.name}" for f in (_IMAGE, _TOPOLOGY) if not f.value]
  if missing:
    raise app.UsageError(f"{' and '.join(missing)} must be given")
  job = _job.read_job(argv)
  if "://" not in job.workdir:
    raise SystemExit(f"error: --workdir {job.workdir} ends with its pod: gs://…")
  sidecar, gpu = None, (_GPU.value or "").partition(":")
  if _GPU.value and job.served:
    sidecar = _job.sidecar_command(_PYTHON, job.served, _job.SIDECAR_PORT)
    host = _jobset.sidecar_host(_job.NAME.value)
    job = job.at_sidecar(f"{host}:{_job.SIDECAR_PORT}")
  try:
    where = _jobset.parse_slice(_TOPOLOGY.value, _CHIPS.value)
  except ValueError as error:
    raise SystemExit(f"error: {error}") from None
  return _jobset.manifest(
    _job.NAME.value,
    _IMAGE.value,
    where,
    job.command(_PYTHON, "--coordinator=auto"),
    sidecar,
    _job.SIDECAR_PORT,
    (gpu[0], int(gpu[2] or 1)),
    _RESTARTS.value,
    _SPOT.value,
    _ACCOUNT.value,
    _job.environment(shown, sidecar is not None),
  )


def read_set(shell: Shell) -> dict | None:
  """The JobSet in the cluster; None: there is none."""
  wanted = ("get", "jobset", _job.NAME.value, "--ignore-not-found", "--output=json")
  text = shell.run(kubectl(*wanted), looks=True)
  return json.loads(text) if text else None


def outcome(there: dict | None) -> str | None:
  """ "Completed", "Failed", or None while it runs."""
  conditions = (there or {}).get("status", {}).get("conditions", [])
  ends = [c["type"] for c in conditions if c["status"] == "True"]
  return next((end for end in ("Completed", "Failed") if end in ends), None)


def run(shell: Shell, argv: list[str]) -> int:
  """Applies the manifest, unless it runs already, and follows it."""
  text = json.dumps(make(argv, shell.dry_run), indent=2)
  there = read_set(shell)
  if outcome(there):
    # Jobs don't start twice.
    shell.confirm(f"{_job.NAME.value} has {outcome(there).lower()}: delete it first")
    shell.run(kubectl("delete", "jobset", _job.NAME.value))
    there = None
  if there is None:
    command = kubectl("apply", "--filename=-")
    if shell.dry_run:
      print(f"{shlex.join(command)} <<'END'\n{text}\nEND")
    else:
      print(shell.run(command, stdin=text).strip())
  else:
    shell.note(f"{_job.NAME.value} is under way")
  return follow(shell)


def follow(shell: Shell) -> int:
  """Shows what the workers print, over restarts; the exit code for this program."""
  labels = f"jobset.sigs.k8s.io/jobset-name={_job.NAME.value}"
  workers = f"{labels},jobset.sigs.k8s.io/replicatedjob-name=workers"
  selector = f"--selector={workers}"
  options = ("--follow", "--prefix", "--tail=-1", "--max-log-requests=1000")
  logs, since, said = kubectl("logs", selector, *options), [], 0
  try:
    while True:
      there = read_set(shell)
      if shell.dry_run:
        return shell.stream(logs)
      if there is None:
        raise ToolError(f"there is no JobSet {_job.NAME.value}; `run` makes one")
      restarts = there.get("status", {}).get("restarts", 0)
      if restarts > said:
        shell.note(f"started again, {restarts} of {_RESTARTS.value} times")
        said = restarts
      end = outcome(there)
      if end == "Completed":
        return 0
      if end == "Failed":
        print(f"error: {verdict(shell, selector)}", file=sys.stderr)
        return 1
      begun = time.time()
      # Fails while there is no container yet, and ends with the pods.
      if shell.stream(logs + since) == 0:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time()))
        since = [f"--since-time={stamp}"]
      time.sleep(max(_POLL.value - (time.time() - begun), 0.1))
  except KeyboardInterrupt:
    print("\nThe run goes on. `logs` shows it again, `delete` ends it.")
    return 130


def verdict(shell: Shell, selector: str) -> str:
  """Which worker ended the run, and what to do about it."""
  text = shell.run(
    kubectl("get", "pods", selector, "--output=json"), fails=True, looks=True
  )
  lines = []
  for pod in json.loads(text)["items"] if text else ():
    labels, status = pod["metadata"]["labels"], pod.get("status", {})
    index = labels.get("batch.kubernetes.io/job-completion-index", "?")
    for container in status.get("containerStatuses", ()):
      ended = container["state"].get("terminated", {})
      if ended.get("exitCode"):
        why = f"exit code {ended['exitCode']} ({ended.get('reason', 'no reason')})"
        when = ended.get("finishedAt", "")
        lines.append((when, f"worker {index} ({pod['metadata']['name']}): {why}"))
  first = [line for _, line in sorted(lines)] or ["no failed pod is left to ask"]
  return (
    f"the JobSet {_job.NAME.value} failed; first {'; then '.join(first)}\n"
    "The same command goes on from the last checkpoint:\n  "
    + _job.again("launch.gke", sys.argv)
  )


def delete(shell: Shell, argv: list[str]) -> None:
  """Deletes what `run` made."""
  name = _job.NAME.value
  shell.confirm(f"delete the JobSet {name} and its service, which ends the run")
  shell.run(kubectl("delete", "jobset", name, "--ignore-not-found"))
  for kind, own in (("service", _jobset.sidecar_host(name)), ("secret", name)):
    shell.run(kubectl("delete", kind, own, "--ignore-not-found"))


def main(argv: list[str]) -> None:
  action = _job.read_action(argv, _ACTIONS)
  shell = Shell(_job.DRY_RUN.value, _job.YES.value)
  try:
    raise SystemExit(_ACTIONS[action](shell, argv))
  except ToolError as error:
    raise SystemExit(f"error: {error}") from None


_ACTIONS = {
  "run": run,
  "manifest": lambda shell, argv: print(json.dumps(make(argv, True), indent=2)),
  "logs": lambda shell, argv: follow(shell),
  "delete": delete,
}

if __name__ == "__main__":
  app.run(main, flags_parser=parse_own_flags)
