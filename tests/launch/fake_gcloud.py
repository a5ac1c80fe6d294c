"""Plays gcloud: takes what the real one takes, and each VM is a home directory.

$FAKE_CLOUD/state.json says what there is; tests change it to make trouble:
"nodes" and "queued" (name -> what describe says), "queue" (states that a request goes
through, one a look), "unreachable" (workers that ssh can't reach). Every call is a line
of $FAKE_CLOUD/calls.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.launch import grammar

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
ROOT = pathlib.Path(__file__).parents[2]
HOSTS = int(os.environ.get("FAKE_HOSTS", "2"))


def fail(message, code=1):
  print(f"ERROR: (gcloud) {message}", file=sys.stderr)
  sys.exit(code)


def make_home(path):
  """A VM whose packages are installed already; its python is the test's program."""
  python = path / "fmd_jax" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  shutil.copy(CLOUD / "python", python)
  python.chmod(0o755)
  content = f"{path / 'fmd_jax'}\n".encode()
  for name in ("requirements.lock", "setup.py"):
    content += (ROOT / name).read_bytes()
  stamp = subprocess.run(["cksum"], input=content, capture_output=True).stdout
  (path / "fmd_jax" / ".venv" / "fmd_jax.stamp").write_bytes(stamp)


def run_on(home, text, worker):
  environment = os.environ | {"HOME": str(home), "TPU_WORKER_ID": str(worker)}
  return subprocess.run(["bash", "-c", text], env=environment).returncode


def workers(state, name, which):
  node = state["nodes"].get(name)
  if node is None or node["state"] != "READY":
    fail(f"the TPU {name} is not READY")
  every = range(len(node["networkEndpoints"]))
  chosen = every if which == "all" else [int(which)]
  for worker in chosen:
    if worker in state["unreachable"]:
      fail("[/usr/bin/ssh] exited with return code [255].", 255)
  return [(w, CLOUD / name / f"worker-{w}") for w in chosen]


def make_node(state, name, kind):
  for worker in range(HOSTS):
    make_home(CLOUD / name / f"worker-{worker}")
  state["nodes"][name] = {
    "name": f"projects/p/locations/z/nodes/{name}",
    "acceleratorType": f"projects/p/locations/z/acceleratorTypes/{kind}",
    "state": "READY",
    "networkEndpoints": [{"ipAddress": f"10.0.0.{i}"} for i in range(HOSTS)],
  }


def remove_node(state, name):
  del state["nodes"][name]
  shutil.rmtree(CLOUD / name)


def act(command, names, flags, state):
  name, (verb, group) = names[-1], reversed(command.split()[-2:])
  kind = {"tpu-vm": "nodes", "queued-resources": "queued"}.get(group, "instances")
  there = state[kind]
  if verb == "describe" and kind == "queued" and name in there and state["queue"]:
    there[name]["state"]["state"] = state["queue"].pop(0)
    if there[name]["state"]["state"] == "ACTIVE":
      make_node(state, name, there[name]["kind"])
  if verb in ("describe", "start", "delete") and name not in there:
    fail(f"NOT_FOUND: Resource {kind}/{name!r} was not found")
  if verb == "create" and name in there:
    fail(f"ALREADY_EXISTS: {name}")
  if verb == "delete" and not {"--quiet", "-q"} & flags.keys():
    fail("This prompt could not be answered because you are not in an interactive one")
  if verb == "describe":
    print(json.dumps(there[name]))
  elif (verb, kind) == ("create", "nodes"):
    make_node(state, name, flags["--accelerator-type"])
  elif (verb, kind) == ("create", "queued"):
    state_of = {"state": "ACCEPTED"}
    there[name] = {"state": state_of, "kind": flags["--accelerator-type"]}
  elif (verb, kind) == ("create", "instances"):
    make_home(CLOUD / name)
    there[name] = {
      "status": "RUNNING",
      "networkInterfaces": [{"networkIP": "10.9.9.9"}],
    }
  elif (verb, kind) == ("delete", "nodes"):
    remove_node(state, name)
  elif (verb, kind) == ("delete", "queued"):
    if name in state["nodes"]:
      if "--force" not in flags:
        fail("the queued resource has nodes")
      remove_node(state, name)
    del there[name]
  elif verb == "delete":
    del there[name]
    shutil.rmtree(CLOUD / name)
  elif verb == "start":
    there[name]["state" if kind == "nodes" else "status"] = "READY"


def reach(command, names, flags, state):
  """ssh and scp; returns the worst exit code."""
  name, _, target = names[-1].partition(":")
  if "tpu-vm" in command:
    homes = workers(state, name, flags.get("--worker", "0"))
  elif name in state["instances"]:
    homes = [("", CLOUD / name)]
  else:
    fail(f"The resource 'instances/{name}' was not found")
  codes = [0]
  for worker, home in homes:
    if command.endswith("scp"):
      shutil.copy(names[0], home / target)
    else:
      codes.append(run_on(home, flags["--command"], worker))
  return max(codes)


def main():
  with open(CLOUD / "calls", "a") as calls:
    calls.write(json.dumps(sys.argv[2:]) + "\n")
  try:
    command, names, flags = grammar.gcloud(sys.argv[2:])
  except grammar.UsageError as error:
    fail(error, 2)
  path = CLOUD / "state.json"
  state = json.loads(path.read_text())
  if command.endswith(("ssh", "scp")):
    sys.exit(reach(command, names, flags, state))
  act(command, names, flags, state)
  path.write_text(json.dumps(state))


if __name__ == "__main__":
  main()
