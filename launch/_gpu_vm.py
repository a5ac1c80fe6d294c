"""A GPU VM of Google's that serves the models of a run."""

from absl import flags

from launch import _checkout, _gcloud, _job, _remote
from launch._shell import Shell, ToolError

NAME = flags.DEFINE_string("sidecar_vm", None, "Name of a GPU VM to serve from.")
_ZONE = flags.DEFINE_string("sidecar_zone", None, "Its zone; that of the TPU.")
_MACHINE = flags.DEFINE_string("sidecar_machine", "g2-standard-12", "Its type.")
_GPU = flags.DEFINE_string("sidecar_gpu", "nvidia-l4:1", "Its GPU, type:count.")
_IMAGE = flags.DEFINE_string(
  "sidecar_image", "common-cu128-ubuntu-2204-nvidia-570", "Its image family."
)
_DISK = flags.DEFINE_string("sidecar_disk", "200GB", "Its disk.")
_SETUP = flags.DEFINE_string(
  "sidecar_setup", None, "Run there after the packages: pip install an engine, …"
)
_RUN = "fmd_jax_sidecar"


class GpuVm:
  """The machine of --sidecar_vm, which serves the models."""

  def __init__(self, shell: Shell):
    self.shell, self.name = shell, NAME.value
    self.place = _gcloud.at(_ZONE.value)

  def instances(self, verb: str, *rest: str) -> list[str]:
    return ["gcloud", "compute", "instances", verb, self.name, *rest, *self.place]

  def ssh(self, text: str) -> list[str]:
    return [
      *("gcloud", "compute", "ssh", self.name, *_gcloud.inside()),
      *(f"--command={text}", *self.place),
    ]

  def describe(self) -> dict | None:
    return _gcloud.read_json(self.shell, self.instances("describe", "--format=json"))

  def create(self) -> None:
    """Makes the VM, or takes the one of that name."""
    found = self.describe()
    if found and found["status"] == "RUNNING":
      return
    if found:
      self.shell.run(self.instances("start"))
      return
    kind, _, count = _GPU.value.partition(":")
    self.shell.run(
      self.instances(
        "create",
        f"--machine-type={_MACHINE.value}",
        f"--accelerator=type={kind},count={count or 1}",
        "--maintenance-policy=TERMINATE",  # GPUs can't move to another machine
        f"--image-family={_IMAGE.value}",
        "--image-project=deeplearning-platform-release",
        "--metadata=install-nvidia-driver=True",
        f"--boot-disk-size={_DISK.value}",
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        *_gcloud.given("network", _gcloud.NETWORK.value),
        *_gcloud.given("subnet", _gcloud.SUBNETWORK.value),
        *_gcloud.given("service-account", _gcloud.ACCOUNT.value),
        *(["--no-address"] if _gcloud.INTERNAL.value else []),
        *(["--provisioning-model=SPOT"] if _gcloud.SPOT.value else []),
      )
    )

  def install(self) -> None:
    """As on the workers, then --sidecar_setup."""
    with _checkout.packed(self.shell) as path:
      target = f"{self.name}:{_checkout.ARCHIVE}"
      scp = ["gcloud", "compute", "scp", path, target, *_gcloud.inside(), *self.place]
      self.shell.run(scp)
    self.shell.run(self.ssh(_checkout.install_text(_SETUP.value)))

  def serve(self, roles: dict[str, str], variables: dict[str, str]) -> str:
    """Starts the sidecar anew, waits until its models are loaded; host:port."""
    port = _job.SIDECAR_PORT
    self.shell.run(self.ssh(_remote.stop(_RUN, 10)))
    command = _job.sidecar_command(_checkout.PYTHON, roles, port)
    command = _job.with_environment(command, variables)
    self.shell.run(self.ssh(_remote.start(_RUN, _checkout.FOLDER, command)))
    ready = _remote.follow(_RUN, until="sidecar ready")
    if self.shell.dry_run:
      self.shell.run(self.ssh(ready))
      return f"ADDRESS_OF_{self.name}:{port}"
    self.shell.note("waiting until the sidecar has loaded its models")
    said = self.shell.run(self.ssh(ready))
    if "sidecar ready" not in said:
      last = "\n".join(said.splitlines()[-20:])
      raise ToolError(f"the sidecar on {self.name} ended:\n{last}")
    return f"{self.describe()['networkInterfaces'][0]['networkIP']}:{port}"
