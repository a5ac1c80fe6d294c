"""The arguments that a tool takes, as its documentation says, for the fakes of it.

gcloud: the SYNOPSIS of each command's page in the Google Cloud CLI reference; kubectl:
its command reference; sbatch, squeue, scancel: their manual pages of Slurm 24.
"""

import re
from typing import NamedTuple


class UsageError(Exception):
  """The real tool would refuse these arguments."""


class Usage(NamedTuple):
  """One command.

  Attributes:
    positionals: fewest and most of them.
    values: flags that take a value.
    switches: flags that take none.
    required: of each group one must be given.
    exclusive: of each group at most one may be given.
    forms: flag -> what its value looks like.
  """

  positionals: tuple[int, int]
  values: frozenset = frozenset()
  switches: frozenset = frozenset()
  required: tuple[frozenset, ...] = ()
  exclusive: tuple[frozenset, ...] = ()
  forms: dict[str, str] = {}  # noqa: RUF012


def flags(text):
  return frozenset(text.split())


def parse(usage, arguments):
  """(positionals, flag -> value or True); UsageError as the tool would complain."""
  found, positionals, rest = {}, [], list(arguments)
  while rest:
    word = rest.pop(0)
    if not word.startswith("-") or word == "-":
      positionals.append(word)
      continue
    name, given, value = word.partition("=")
    if name in usage.switches and not given:
      found[name] = True
    elif name in usage.values:
      if not given:
        if not rest:
          raise UsageError(f"argument {name}: expected one argument")
        value = rest.pop(0)
      found[name] = value
    else:
      raise UsageError(f"unrecognized arguments: {word}")
  fewest, most = usage.positionals
  if not fewest <= len(positionals) <= most:
    raise UsageError(f"{len(positionals)} positional arguments: {positionals}")
  for group in usage.required:
    if not group & found.keys():
      raise UsageError(f"argument {' | '.join(sorted(group))}: must be specified")
  for group in usage.exclusive:
    if len(group & found.keys()) > 1:
      raise UsageError(f"at most one of {sorted(group)} can be specified")
  for name, form in usage.forms.items():
    if name in found and not re.fullmatch(form, str(found[name]), re.DOTALL):
      raise UsageError(f"argument {name}: invalid value {found[name]!r}")
  return positionals, found


WIDE_VALUES = flags("--project --format --account --verbosity --configuration")
WIDE_SWITCHES = flags("--quiet -q")
ZONE = (frozenset({"--zone"}),)
NAME = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
SIZE = r"\d+(GB|TB|MB|KB)?"
DURATION = r"\d+(s|m|h|d)?"
SCOPES = "https://www.googleapis.com/auth/.*"
VM = (
  "--zone --boot-disk --data-disk --description --labels --metadata "
  "--metadata-from-file --network --range --scopes --service-account --subnetwork "
  "--tags --accelerator-type --topology --type"
)
VM_SWITCHES = "--async --internal-ips --reserved --shielded-secure-boot --spot"
SSH = "--ssh-flag --ssh-key-file --strict-host-key-checking --zone --ssh-key-expiration"
SSH_SWITCHES = "--dry-run --force-key-file-overwrite --internal-ip --plain"
ACCELERATOR = (frozenset({"--accelerator-type", "--type"}),)

GCLOUD = {
  "compute tpus tpu-vm create": Usage(
    (1, 1),
    flags(f"{VM} --version --queue-count"),
    flags(f"{VM_SWITCHES} --preemptible"),
    (*ZONE, frozenset({"--version"})),
    ACCELERATOR,
    {"--scopes": SCOPES, "--zone": r"[a-z]+-[a-z]+\d-[a-z]"},
  ),
  "compute tpus tpu-vm describe": Usage((1, 1), flags("--zone"), required=ZONE),
  "compute tpus tpu-vm start": Usage(
    (1, 1), flags("--zone"), flags("--async"), required=ZONE
  ),
  "compute tpus tpu-vm delete": Usage(
    (1, 1), flags("--zone"), flags("--async"), required=ZONE
  ),
  "compute tpus tpu-vm ssh": Usage(
    (1, 1),
    flags(f"{SSH} --worker --command --output-directory"),
    flags(SSH_SWITCHES),
    required=ZONE,
    forms={"--worker": r"all|\d+"},
  ),
  "compute tpus tpu-vm scp": Usage(
    (2, 99),
    flags(f"{SSH} --worker --scp-flag"),
    flags(f"{SSH_SWITCHES} --compress --recurse"),
    required=ZONE,
    forms={"--worker": r"all|\d+"},
  ),
  "compute tpus queued-resources create": Usage(
    (1, 1),
    flags(
      f"{VM} --runtime-version --node-id --node-count --node-prefix "
      "--valid-after-duration --valid-after-time --valid-until-duration "
      "--valid-until-time"
    ),
    flags(f"{VM_SWITCHES} --guaranteed"),
    (
      *ZONE,
      *ACCELERATOR,
      frozenset({"--runtime-version"}),
      frozenset({"--node-id", "--node-count"}),
    ),
    (*ACCELERATOR, frozenset({"--node-id", "--node-count"})),
    {"--node-id": NAME, "--valid-until-duration": DURATION, "--scopes": SCOPES},
  ),
  "compute tpus queued-resources describe": Usage(
    (1, 1), flags("--zone"), required=ZONE
  ),
  "compute tpus queued-resources delete": Usage(
    (1, 1), flags("--zone"), flags("--async --force"), required=ZONE
  ),
  "compute instances create": Usage(
    (1, 99),
    flags(
      "--zone --machine-type --accelerator --maintenance-policy --image --image-family "
      "--image-project --metadata --boot-disk-size --scopes --network --subnet "
      "--service-account --provisioning-model --tags --labels"
    ),
    flags("--no-address --preemptible --async"),
    exclusive=(frozenset({"--image", "--image-family"}),),
    forms={
      "--accelerator": r"type=[a-z0-9-]+(,count=\d+)?",
      "--maintenance-policy": "MIGRATE|TERMINATE",
      "--boot-disk-size": SIZE,
      "--provisioning-model": "SPOT|STANDARD",
      "--scopes": SCOPES,
    },
  ),
  "compute instances describe": Usage((1, 1), flags("--zone")),
  "compute instances start": Usage((1, 99), flags("--zone"), flags("--async")),
  "compute instances delete": Usage((1, 99), flags("--zone --keep-disks")),
  "compute ssh": Usage(
    (1, 1), flags(f"{SSH} --command"), flags(f"{SSH_SWITCHES} --tunnel-through-iap")
  ),
  "compute scp": Usage(
    (2, 99), flags(f"{SSH} --scp-flag"), flags(f"{SSH_SWITCHES} --compress --recurse")
  ),
}


def gcloud(arguments):
  """(command, positionals, flags) of what follows the word gcloud."""
  for length in (4, 3, 2):
    command = " ".join(arguments[:length])
    if command in GCLOUD:
      usage = GCLOUD[command]
      usage = usage._replace(
        values=usage.values | WIDE_VALUES, switches=usage.switches | WIDE_SWITCHES
      )
      positionals, found = parse(usage, arguments[length:])
      if not re.fullmatch(f"(.*:)?{NAME}(:.*)?", positionals[-1].partition(":")[0]):
        raise UsageError(f"invalid name {positionals[-1]!r}")
      return command, positionals, found
  raise UsageError(f"Invalid choice: {' '.join(arguments[:4])!r}")


LISTED = "--selector --output --namespace --context"
KUBECTL = {
  "apply": Usage(
    (0, 0),
    flags("--filename --namespace --context --output"),
    flags("--server-side"),
    required=(frozenset({"--filename"}),),
  ),
  "get": Usage((1, 2), flags(LISTED), flags("--ignore-not-found --watch")),
  "delete": Usage(
    (1, 2), flags("--selector --namespace --context"), flags("--ignore-not-found")
  ),
  "logs": Usage(
    (0, 1),
    flags(
      "--selector --tail --max-log-requests --since-time --since --namespace "
      "--context --container"
    ),
    flags("--follow --prefix --all-containers --timestamps"),
    exclusive=(frozenset({"--since", "--since-time"}),),
    forms={
      "--tail": r"-?\d+",
      "--max-log-requests": r"\d+",
      "--since-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    },
  ),
}


def kubectl(arguments):
  """(verb, positionals, flags) of what follows the word kubectl."""
  if arguments[0] not in KUBECTL:
    raise UsageError(f"unknown command {arguments[0]!r}")
  return arguments[0], *parse(KUBECTL[arguments[0]], arguments[1:])


SIGNAL = r"([BR]+:)?(TERM|USR1|USR2|INT|\d+)(@\d+)?"
JOB = {
  "--time": r"(\d+-)?\d+(:\d+(:\d+)?)?",
  "--signal": SIGNAL,
  "--open-mode": "append|truncate",
  "--nodes": r"\d+(-\d+)?",
  "--ntasks-per-node": r"\d+",
  "--gpus-per-node": r"([a-z0-9]+:)?\d+",
}
SLURM = {
  "sbatch": Usage(
    (0, 99),
    flags(
      "--job-name --nodes --ntasks --ntasks-per-node --gpus-per-node --time --output "
      "--open-mode --signal --partition --account --qos --constraint --cpus-per-task"
    ),
    flags("--parsable --requeue --no-requeue --exclusive"),
    forms=JOB,
  ),
  "squeue": Usage(
    (0, 0), flags("--jobs --states --format --name --user"), flags("--noheader --me")
  ),
  "scancel": Usage((1, 99), flags("--signal --name"), flags("--batch --full")),
  "scontrol": Usage((2, 3)),
}
SRUN = Usage(
  (0, 0),
  flags("--het-group --kill-on-bad-exit --wait --nodes --ntasks"),
  flags("--label"),
  forms={"--kill-on-bad-exit": "[01]", "--wait": r"\d+", "--het-group": r"\d+"},
)


def slurm(tool, arguments):
  """(positionals, flags); of srun the positionals are the command."""
  if tool == "srun":
    count = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
    return arguments[count:], parse(SRUN, arguments[:count])[1]
  return parse(SLURM[tool], arguments)


def batch_script(text):
  """The options of each component of a batch script, up to its first command."""
  lines = text.splitlines()
  if not lines or not lines[0].startswith("#!"):
    raise UsageError("This does not look like a batch script")
  components = [[]]
  for line in lines[1:]:
    if line.startswith("#SBATCH "):
      words = line.removeprefix("#SBATCH ").split()
      if words == ["hetjob"]:
        components.append([])
      else:
        components[-1] += words
    elif line.strip() and not line.startswith("#"):
      break
  return [parse(SLURM["sbatch"], words)[1] for words in components]
