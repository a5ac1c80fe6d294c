"""The manifests of a run on Kubernetes: a JobSet of TPU workers and a GPU sidecar.

jobset.x-k8s.io/v1alpha2; the labels of nodes and the names of resources are GKE's.
"""

import math
from typing import Any, NamedTuple

# launch.tpu_fit's name of a generation -> GKE's name of its node pools.
ACCELERATORS = {
  "v4": "tpu-v4-podslice",
  "v5e": "tpu-v5-lite-podslice",
  "v5p": "tpu-v5p-slice",
  "v6e": "tpu-v6e-slice",
}
_LABEL = "jobset.sigs.k8s.io"
_SAVE_SECONDS = 90  # between SIGTERM and SIGKILL


class Slice(NamedTuple):
  """A TPU slice.

  Attributes:
    accelerator: GKE's name.
    topology: 4x4.
    hosts: machines.
    chips: of each.
  """

  accelerator: str
  topology: str
  hosts: int
  chips: int


def parse_slice(text: str, chips_per_host: int) -> Slice:
  """`v5e:4x4` as a slice.

  Raises:
    ValueError: it is none, or its chips don't fill hosts of that size.
  """
  generation, _, topology = text.partition(":")
  sizes = topology.split("x")
  if generation not in ACCELERATORS or not all(size.isdecimal() for size in sizes):
    known = ", ".join(ACCELERATORS)
    raise ValueError(f"--topology {text!r}: such as v5e:4x4, of {known}")
  chips = math.prod(map(int, sizes))
  each = min(chips_per_host, chips)
  if chips % each:
    raise ValueError(f"--topology {text!r}: {chips} chips are no hosts of {each}")
  return Slice(ACCELERATORS[generation], topology, chips // each, each)


def manifest(
  name: str,
  image: str,
  where: Slice,
  command: list[str],
  sidecar: list[str] | None,
  port: int,
  gpu: tuple[str, int],
  restarts: int,
  spot: bool,
  account: str | None,
  variables: dict[str, str],
) -> dict[str, Any]:
  """A List of the JobSet, a secret and, with a sidecar, the service it is found by.

  Args:
    name: of all of them.
    image: of all containers.
    where: the slice.
    command: of each worker.
    sidecar: its command; None: without one.
    port: where it listens.
    gpu: GKE's name of the sidecar's GPU, and how many.
    restarts: of the whole set, after a pod has failed.
    spot: whether on machines that may be taken away.
    account: the Kubernetes service account; None: the default one.
    variables: of the environment, for all containers; kept in a secret.
  """
  items: list[dict[str, Any]] = []
  handed_on: dict[str, Any] = {}
  if variables:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    items.append(secret | {"stringData": variables})
    handed_on = {"envFrom": [{"secretRef": {"name": name}}]}
  nodes = {
    "cloud.google.com/gke-tpu-accelerator": where.accelerator,
    "cloud.google.com/gke-tpu-topology": where.topology,
  }
  container = {
    "name": "worker",
    "image": image,
    "command": command,
    # What TPU workers and jax.distributed talk over.
    "ports": [{"containerPort": port} for port in (8471, 8080, 8476)],
    "resources": {"limits": {"google.com/tpu": str(where.chips)}},
    **handed_on,
  }
  workers = _replicated(
    "workers", where.hosts, _pod(container, nodes, spot, account), exclusive=True
  )
  jobs = [workers]
  if sidecar:
    container = {
      "name": "sidecar",
      "image": image,
      "command": sidecar,
      "ports": [{"containerPort": port}],
      # Ready once its models are loaded; the service names ready pods only.
      "readinessProbe": {"grpc": {"port": port}, "periodSeconds": 5},
      "resources": {"limits": {"nvidia.com/gpu": str(gpu[1])}},
      **handed_on,
    }
    nodes = {"cloud.google.com/gke-accelerator": gpu[0]}
    jobs.append(_replicated("sidecar", 1, _pod(container, nodes, spot, account)))
    selector = {
      f"{_LABEL}/jobset-name": name,
      f"{_LABEL}/replicatedjob-name": "sidecar",
    }
    service = {
      "apiVersion": "v1",
      "kind": "Service",
      "metadata": {"name": sidecar_host(name)},
      "spec": {
        "clusterIP": "None",
        "selector": selector,
        "ports": [{"name": "grpc", "port": port}],
      },
    }
    items.append(service)
  jobset = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": name},
    "spec": {
      "failurePolicy": {"maxRestarts": restarts},
      # The sidecar would serve for ever; it goes when the workers are through.
      "successPolicy": {"operator": "All", "targetReplicatedJobs": ["workers"]},
      "replicatedJobs": jobs,
    },
  }
  return {"apiVersion": "v1", "kind": "List", "items": [*items, jobset]}


def sidecar_host(name: str) -> str:
  """The name under which the workers find the sidecar."""
  return f"{name}-sidecar"


def _pod(container: dict, nodes: dict, spot: bool, account: str | None) -> dict:
  spec: dict[str, Any] = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": _SAVE_SECONDS,
    "nodeSelector": nodes,
    "containers": [container],
  }
  if spot:
    key = "cloud.google.com/gke-spot"
    spec["nodeSelector"] = nodes | {key: "true"}
    wanted = {"key": key, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    spec["tolerations"] = [wanted]
  if account:
    spec["serviceAccountName"] = account
  return spec


def _replicated(name: str, pods: int, spec: dict, exclusive: bool = False) -> dict:
  template: dict[str, Any] = {
    "spec": {
      "parallelism": pods,
      "completions": pods,
      "backoffLimit": 0,  # one pod less is no slice: the JobSet starts all again
      "template": {"spec": spec},
    }
  }
  if exclusive:  # all of one node pool, which is one slice
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    template["metadata"] = {"annotations": {key: "cloud.google.com/gke-nodepool"}}
  return {"name": name, "replicas": 1, "template": template}
