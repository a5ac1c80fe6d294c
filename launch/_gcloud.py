"""What all of Google's machines have in common: where they are and whose."""

import json

from absl import flags

from launch._shell import Shell, ToolError

ZONE = flags.DEFINE_string("zone", None, "Of the TPU: us-west4-a.")
PROJECT = flags.DEFINE_string("project", None, "gcloud's own when not given.")
SPOT = flags.DEFINE_bool("spot", False, "Cheaper, and may be taken away at any time.")
NETWORK = flags.DEFINE_string("network", None, "Of all VMs.")
SUBNETWORK = flags.DEFINE_string("subnetwork", None, "Of all VMs.")
INTERNAL = flags.DEFINE_bool("internal_ips", False, "No external addresses.")
ACCOUNT = flags.DEFINE_string("service_account", None, "Of all VMs.")


def at(zone: str | None = None) -> list[str]:
  """The flags that say where something is."""
  return [f"--zone={zone or ZONE.value}", *given("project", PROJECT.value)]


def inside() -> list[str]:
  """How ssh gets to a machine without an external address."""
  return ["--internal-ip"] if INTERNAL.value else []


def given(flag: str, value: str | None) -> list[str]:
  return [f"--{flag}={value}"] if value else []


def read_json(shell: Shell, command: list[str]) -> dict | None:
  """What `describe` says; None when there is no such thing."""
  try:
    text = shell.run(command, looks=True)
  except ToolError as error:
    if "NOT_FOUND" in str(error) or "not found" in str(error):
      return None
    raise
  return json.loads(text) if text else None
