"""What every launcher of a run elsewhere is told, and what it runs there."""

import os
import pathlib
import secrets
import shlex
from typing import NamedTuple

import ml_collections
from absl import app, flags

from launch._flags import OVERRIDE, overrides, resolve

CONFIG = flags.DEFINE_string("config", None, "configs/NAME.py[:arg]")
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where everything is written: gs://BUCKET/PATH, or a shared folder."
)
NAME = flags.DEFINE_string("name", "fmd-jax", "Of what is created.")
SIDECAR_ADDRESS = flags.DEFINE_string(
  "sidecar_address", None, "host:port of a sidecar that runs already."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the commands.")
YES = flags.DEFINE_bool("yes", False, "Don't ask before what can't be undone.")
PASS_ENV = flags.DEFINE_list(
  "pass_env", [], "Variables of this environment for the run: OPENAI_API_KEY,HF_TOKEN"
)
ROOT = pathlib.Path(__file__).parents[1]
SIDECAR_PORT = 50051
# What launch.discover ends with when it was asked to stop and can go on.
STOPPED = 75
# By it a sidecar knows its callers.
TOKEN = "FMD_JAX_TOKEN"


class Job(NamedTuple):
  """A run of launch.discover.

  Attributes:
    path: configs/NAME.py[:arg].
    workdir: of the run.
    overrides: `--config.key=value`.
    config: what they resolve to.
  """

  path: str
  workdir: str
  overrides: list[str]
  config: ml_collections.ConfigDict

  def command(self, python: str, *options: str) -> list[str]:
    """The command that runs it, from the root of a checkout."""
    own = [f"--config={self.path}", f"--workdir={self.workdir}"]
    return [python, "-m", "launch.discover", *own, *options, *self.overrides]

  def at_sidecar(self, address: str) -> "Job":
    """The same run, with its models behind the sidecar at host:port."""
    return self._replace(
      overrides=[*self.overrides, f"{OVERRIDE}sidecar.address={address}"]
    )

  @property
  def served(self) -> dict[str, str]:
    """The roles that a sidecar has to serve, and their models."""
    from fmd_jax import inference

    roles = {k: v for k, v in self.config.roles.items() if k != "questioner"}
    return {k: v for k, v in roles.items() if not inference.is_remote(v)}


def read_job(argv: list[str]) -> Job:
  """The run that the flags describe; a mistake is told before anything is paid for."""
  missing = [f"--{f.name}" for f in (CONFIG, WORKDIR) if not f.value]
  if missing:
    raise app.UsageError(f"{' and '.join(missing)} must be given")
  if not (ROOT / CONFIG.value.partition(":")[0]).resolve().is_relative_to(ROOT):
    raise SystemExit(
      f"error: --config {CONFIG.value} is outside {ROOT}, which is all that is sent: "
      "put the file into configs/"
    )
  config = resolve(CONFIG.value, overrides(argv))
  job = Job(CONFIG.value, WORKDIR.value, overrides(argv), config)
  return job.at_sidecar(SIDECAR_ADDRESS.value) if SIDECAR_ADDRESS.value else job


def read_action(argv: list[str], actions: dict) -> str:
  """The first argument, or the first action when there is none."""
  given = [a for a in argv[1:] if not a.startswith(OVERRIDE)]
  if len(given) > 1 or (given and given[0] not in actions):
    raise app.UsageError(f"{' '.join(given)}: give one of {', '.join(actions)}")
  return given[0] if given else next(iter(actions))


def environment(dry_run: bool, serves: bool) -> dict[str, str]:
  """The variables that trainer and sidecar get; a dry run keeps their values back.

  Args:
    dry_run: whether they are only shown.
    serves: whether a sidecar is made, which has to know its callers: by the token of
      this environment, or by a new one.

  Raises:
    SystemExit: one of --pass_env is not set.
  """
  missing = [name for name in PASS_ENV.value if name not in os.environ]
  if missing:
    raise SystemExit(f"error: --pass_env: {', '.join(missing)} is not set")
  found = {name: os.environ[name] for name in PASS_ENV.value}
  token = os.environ.get(TOKEN) or (secrets.token_hex(16) if serves else "")
  found |= {TOKEN: token} if token else {}
  return dict.fromkeys(found, "SECRET") if dry_run else found


def with_environment(command: list[str], variables: dict[str, str]) -> list[str]:
  """The command, which sets the variables first."""
  each = [f"{name}={value}" for name, value in variables.items()]
  return ["env", *each, *command] if each else command


def sidecar_command(python: str, roles: dict[str, str], port: int) -> list[str]:
  """Serves the roles to other machines."""
  each = [f"--role={role}={spec}" for role, spec in roles.items()]
  return [python, "-m", "launch.sidecar", "--host=0.0.0.0", f"--port={port}", *each]


def again(module: str, argv: list[str]) -> str:
  """This very command, to be typed again."""
  return shlex.join(["python", "-m", module, *argv[1:]])
