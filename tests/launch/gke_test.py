"""launch.gke: its manifests against published schemas, its story by a fake kubectl."""

import json
import re

import pytest

from launch import _jobset
from tests.launch import cloud, grammar

WHAT = (
  *("--name=run", "--image=registry/fmd:1", "--topology=v5e:4x4", "--poll=0.1"),
  *("--config=configs/quickstart.py", "--workdir=gs://bucket/run"),
)
DONE = {"conditions": [{"type": "Completed", "status": "True"}]}
FAILED = {"conditions": [{"type": "Failed", "status": "True"}], "restarts": 2}


@pytest.fixture
def cluster(tmp_path):
  made = cloud.Cloud(tmp_path / "cloud", "kubectl")
  (made.folder / "logs").write_text("[pod/run-workers-0-0] step 0\n")
  made.kube = lambda: json.loads((made.folder / "kube.json").read_text())
  made.set_kube = lambda **new: (made.folder / "kube.json").write_text(json.dumps(new))
  made.set_kube(items={}, statuses=[{}, {"restarts": 1}, DONE], pods=[])
  yield made
  made.end()


def make(gpu=("nvidia-l4", 1), spot=True, sidecar=("serve",), variables=None):
  where = _jobset.parse_slice("v5e:4x4", 4)
  arguments = ("run", "image", where, ["train"], sidecar and list(sidecar), 50051)
  variables = {"FMD_JAX_TOKEN": "t"} if variables is None else variables
  return _jobset.manifest(*arguments, gpu, 10, spot, "me", variables)


def missing(ours, parsed, path=""):
  """What the schema does not know: it is not there after parsing."""
  if isinstance(ours, dict):
    for key, value in ours.items():
      if not isinstance(parsed, dict) or key not in parsed:
        yield f"{path}.{key}"
      else:
        yield from missing(value, parsed[key], f"{path}.{key}")
  elif isinstance(ours, list):
    for i, value in enumerate(ours):
      yield from missing(value, parsed[i], f"{path}[{i}]")
  elif ours != parsed:
    yield path


def unknown(item):
  """The fields of a manifest that the published schema does not know.

  Raises:
    ValueError: of pydantic's, for a wrong type or a missing field.
  """
  models = pytest.importorskip("kubeflow_trainer_api.models")
  model = {
    "JobSet": models.JobsetV1alpha2JobSet,
    "Service": models.IoK8sApiCoreV1Service,
  }[item["kind"]]
  return list(missing(item, model.from_dict(item).to_dict()))


@pytest.mark.parametrize("sidecar", [("serve",), None])
@pytest.mark.parametrize("spot", [True, False])
def test_the_manifests_fit_the_published_schemas(sidecar, spot):
  items = make(sidecar=sidecar, spot=spot)["items"]
  kinds = [i["kind"] for i in items]
  assert kinds == ["Secret", *(["Service"] if sidecar else []), "JobSet"]
  for item in items:
    assert item["kind"] == "Secret" or unknown(item) == []


def test_the_schemas_see_a_mistake():
  item = make()["items"][-1]
  item["spec"]["failurePolicy"] = {"maxRestart": 3}
  assert unknown(item) == [".spec.failurePolicy.maxRestart"]
  item = make()["items"][-1]
  item["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] = "4"
  with pytest.raises(ValueError):
    unknown(item)


def test_parts_of_the_manifest_find_each_other():
  secret, service, jobset = make()["items"]
  workers, sidecar = jobset["spec"]["replicatedJobs"]
  name = jobset["metadata"]["name"]
  # The labels that the JobSet controller gives to pods.
  assert service["spec"]["selector"] == {
    "jobset.sigs.k8s.io/jobset-name": name,
    "jobset.sigs.k8s.io/replicatedjob-name": sidecar["name"],
  }
  # The JobSet makes a service of its own name for itself.
  assert service["metadata"]["name"] != name
  assert service["spec"]["clusterIP"] == "None"
  spec = workers["template"]["spec"]
  # 16 chips, 4 a host; one pod too few would wait for the others for ever.
  assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (4, 4, 0)
  for each in (workers, sidecar):  # who do not know the token don't know each other
    (container,) = each["template"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": secret["metadata"]}]
  container = spec["template"]["spec"]["containers"][0]
  assert container["resources"]["limits"] == {"google.com/tpu": "4"}
  (alone,) = make(sidecar=None, variables={})["items"]
  assert "envFrom" not in json.dumps(alone)
  assert jobset["spec"]["successPolicy"]["targetReplicatedJobs"] == [workers["name"]]
  for each in (workers, sidecar):
    assert re.fullmatch(r"[a-z0-9-]{1,63}", f"{name}-{each['name']}-0-0")


@pytest.mark.parametrize(
  ("text", "hosts", "chips"), [("v5e:2x4", 2, 4), ("v6e:1x1", 1, 1), ("v4:2x2x4", 4, 4)]
)
def test_slices(text, hosts, chips):
  assert _jobset.parse_slice(text, 4)[2:] == (hosts, chips)


def test_a_run_over_a_restart(cluster):
  run = cluster.run("gke", *WHAT, "--sidecar_gpu=nvidia-l4:1", "--config.steps=9")
  assert run.returncode == 0, run.stderr
  assert "[pod/run-workers-0-0] step 0" in run.stdout
  assert "# started again, 1 of 10 times" in run.stdout
  items = cluster.kube()["items"]
  assert set(items) == {"secret/run", "service/run-sidecar", "jobset/run"}
  token = items["secret/run"]["stringData"]["FMD_JAX_TOKEN"]
  assert len(token) == 32 and token not in run.stdout
  jobs = items["jobset/run"]["spec"]["replicatedJobs"]
  commands = [j["template"]["spec"]["template"]["spec"]["containers"][0] for j in jobs]
  assert commands[0]["command"][-2:] == [
    "--config.steps=9",
    "--config.sidecar.address=run-sidecar:50051",
  ]
  assert "--role=verifier=oracle://" in commands[1]["command"]
  # Finished: started once more it must be deleted first, which is asked.
  again = cluster.run("gke", *WHAT)
  assert again.returncode == 1 and "run has completed: delete it first" in again.stderr
  refused = cluster.run("gke", "delete", "--name=run")
  assert refused.returncode == 1 and "jobset/run" in cluster.kube()["items"]
  assert cluster.run("gke", "delete", "--name=run", "--yes").returncode == 0
  assert cluster.kube()["items"] == {}


def test_a_worker_that_dies_too_often_is_named(cluster):
  ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "T2"}}
  first = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "T1"}}
  index = "batch.kubernetes.io/job-completion-index"
  pods = [
    {
      "metadata": {"name": f"run-workers-0-{i}-x", "labels": {index: str(i)}},
      "status": {"containerStatuses": [{"state": state}]},
    }
    for i, state in enumerate((ended, {"running": {}}, first))
  ]
  cluster.set_kube(items={}, statuses=[{}, FAILED], pods=pods)
  run = cluster.run("gke", *WHAT)
  assert run.returncode == 1
  # By time, not by number: the first one is the cause, others follow from it.
  wanted = "first worker 2 (run-workers-0-2-x): exit code 1 (Error); then worker 0"
  assert wanted in run.stderr
  assert "python -m launch.gke --name=run" in run.stderr


def test_a_dry_run_prints_what_the_real_tool_would_take(tmp_path):
  bare = cloud.Cloud(tmp_path / "cloud")
  options = ("--dry_run", "--context=c", "--namespace=n")
  for action in ("run", "logs", "delete"):
    run = bare.run("gke", action, *WHAT, *options)
    assert run.returncode == 0, run.stderr
    printed = re.findall(r"^kubectl (.*?)(?: <<'END')?$", run.stdout, re.MULTILINE)
    assert printed
    for line in printed:
      _, _, flags = grammar.kubectl(line.split())
      assert (flags["--context"], flags["--namespace"]) == ("c", "n")
  manifest = bare.run("gke", "manifest", *WHAT)
  assert json.loads(manifest.stdout)["items"][0]["kind"] == "JobSet"


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (WHAT[:1], "--image and --topology must be given"),
    ((*WHAT, "--topology=v9:4x4"), "such as v5e:4x4"),
    ((*WHAT, "--topology=v5e:2x3"), "6 chips are no hosts of 4"),
    ((*WHAT, "--workdir=/tmp/x"), "/tmp/x ends with its pod"),
    ((*WHAT, "--config.stepz=3"), 'Did you mean "steps"'),
  ],
)
def test_a_mistake_is_told(cluster, arguments, expected):
  run = cluster.run("gke", *arguments)
  assert run.returncode != 0
  assert expected in run.stderr + run.stdout and "Traceback" not in run.stderr
  assert cluster.calls() == []
