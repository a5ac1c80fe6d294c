"""launch.tpu_pod as a user starts it, against a gcloud that makes no machine."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.launch import cloud, grammar

# Nothing is installed: a "VM" of the fake is a folder of this machine.
PLACE = ("--name=pod", "--zone=us-west4-a", "--poll=0.2", "--grace=1", "--setup=true")
WHAT = (
  "--accelerator_type=v5litepod-8",
  "--config=configs/quickstart.py",
  "--workdir=gs://bucket/run",
  "--config.steps=9",
)
OPTIONS = [
  (),
  ("--queued", "--spot", "--valid_until=6h", "--project=p", "--service_account=a@b"),
  ("--sidecar_vm=judge", "--internal_ips", "--network=n", "--subnetwork=s"),
]
DISCOVER = (
  "-m launch.discover --config=configs/quickstart.py --workdir=gs://bucket/run "
  "--coordinator=auto --config.steps=9"
)


@pytest.fixture
def google(tmp_path):
  made = cloud.Cloud(tmp_path / "cloud", "gcloud")
  yield made
  made.end()


def commands(text):
  """The commands that a launcher printed, each as its words."""
  words = shlex.split(text, comments=True)
  starts = [i for i, word in enumerate(words) if word == "gcloud"] + [len(words)]
  return [words[a:b] for a, b in zip(starts, starts[1:])]


def verbs(calls):
  """What was done, but for looks."""
  each = [grammar.gcloud(call)[0].removeprefix("compute ") for call in calls]
  return [v for v in each if not v.endswith("describe")]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_dry_run_prints_what_the_real_tool_would_take(tmp_path, options):
  bare = cloud.Cloud(tmp_path / "cloud")  # and no gcloud
  for action in ("run", "stop", "delete"):
    run = bare.run("tpu_pod", action, *PLACE, *WHAT, *options, "--dry_run")
    assert run.returncode == 0, run.stderr
    printed = commands(run.stdout)
    for words in printed:
      grammar.gcloud(words[1:])
    if action == "run":
      text = run.stdout
      group = "queued-resources" if "--queued" in options else "tpu-vm"
      assert f"tpus {group} create pod" in text and "launch.discover" in text
      assert ("--spot" in text) == ("--spot" in options)
      if "--sidecar_vm=judge" in options:
        assert "--role=verifier=oracle://" in text
        assert "--config.sidecar.address=ADDRESS_OF_judge:50051" in text
        # The trainer's own folder is not for the sidecar to load.
        assert "--role=questioner" not in text
        assert text.count("FMD_JAX_TOKEN=SECRET") == 2
    else:
      assert "# asks first, unless --yes" in run.stdout


def test_from_nothing_to_a_finished_run_and_once_more(google):
  first = google.run("tpu_pod", *PLACE, *WHAT)
  assert first.returncode == 0, first.stdout + first.stderr
  wanted = ["tpus tpu-vm create", "tpus tpu-vm scp", "tpus tpu-vm ssh"]
  done = verbs(google.calls())
  assert done[:3] == wanted and set(done[3:]) == {"tpus tpu-vm ssh"}
  for worker in (0, 1):
    assert f"[worker {worker}] finished" in first.stdout
    home = ("pod", f"worker-{worker}")
    assert google.lines(*home, "started") == [DISCOVER]
    # The checkout is there, and not what git ignores.
    assert google.lines(*home, "fmd_jax", "requirements.lock")
    assert not google.folder.joinpath(*home, "fmd_jax", "tests", "__pycache__").exists()
  again = google.run("tpu_pod", "start", *PLACE, *WHAT)
  assert again.returncode == 0, again.stderr
  assert len(google.lines("pod", "worker-1", "started")) == 2
  create = google.run("tpu_pod", "create", *PLACE, *WHAT)
  # Made anew, it would cost twice.
  assert "is there and ready" in create.stdout and create.returncode == 0
  other = google.run("tpu_pod", "create", *PLACE, "--accelerator_type=v6e-8")
  assert "pod is a v5litepod-8, not a v6e-8" in other.stderr
  assert verbs(google.calls()).count("tpus tpu-vm create") == 1


def test_a_worker_that_dies_is_named_and_the_same_command_goes_on(google):
  (google.folder / "die").write_text("1")
  first = google.run("tpu_pod", *PLACE, *WHAT)
  assert first.returncode == 1
  error = first.stderr
  assert "worker 1 of 2 ended with exit code 137 (killed by signal 9)" in error
  assert "RuntimeError: out of luck" in error
  # Worker 0 would wait for worker 1 for ever: it was ended, and saved first.
  assert google.lines("pod", "worker-0", "fmd_jax_run", "log")[-1] == "saved at step 7"
  command = error.strip().splitlines()[-1].strip()
  assert command.startswith("python -m launch.tpu_pod --name=pod")

  second = google.run("tpu_pod", *shlex.split(command)[3:])
  assert second.returncode == 0, second.stderr
  assert "[worker 0] goes on at step 7" in second.stdout
  assert google.lines("pod", "worker-0", "started") == [DISCOVER] * 2


@pytest.mark.slow
def test_a_pod_that_was_taken_away_is_made_anew_when_told(google):
  (google.folder / "die").write_text("none: all wait")
  process = google.start("tpu_pod", *PLACE, *WHAT)
  cloud.wait_for(process, "] step 0", times=2)
  node = google.state["nodes"]["pod"] | {"state": "PREEMPTED"}
  google.change(nodes={"pod": node})
  for worker in (0, 1):
    group = int(google.lines("pod", f"worker-{worker}", "fmd_jax_run", "group")[0])
    subprocess.run(["kill", "-KILL", "--", f"-{group}"], check=True)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1
  assert "was lost (the TPU is PREEMPTED)" in errors

  (google.folder / "die").unlink()
  asked = google.run("tpu_pod", *PLACE, *WHAT)
  # Nobody is there to answer: nothing may be deleted.
  assert asked.returncode == 1 and "is PREEMPTED: delete it" in asked.stderr
  assert "tpus tpu-vm delete" not in verbs(google.calls())
  anew = google.run("tpu_pod", *PLACE, *WHAT, "--yes")
  assert anew.returncode == 0, anew.stderr
  assert google.lines("pod", "worker-0", "started") == [DISCOVER]


@pytest.mark.slow
def test_a_queue_is_waited_for(google):
  google.change(queue=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
  run = google.run("tpu_pod", *PLACE, *WHAT, "--queued", "--valid_until=6h")
  assert run.returncode == 0, run.stderr
  assert "# waiting: WAITING_FOR_RESOURCES" in run.stdout
  deleted = google.run("tpu_pod", "delete", *PLACE, "--queued", "--yes")
  assert deleted.returncode == 0, deleted.stderr
  assert google.state["nodes"] == google.state["queued"] == {}

  google.change(queue=["FAILED"], queued={"pod": {"state": {"state": "ACCEPTED"}}})
  failed = google.run("tpu_pod", *PLACE, *WHAT, "--queued")
  assert "pod is FAILED: delete it and make it anew: say --yes" in failed.stderr


def test_models_on_a_gpu_vm(google):
  options = ("--sidecar_vm=judge", "--sidecar_setup=touch $HOME/engine")
  tokens = []
  for _ in range(2):  # the second time there is one, with other models perhaps
    run = google.run("tpu_pod", *PLACE, *WHAT, *options)
    assert run.returncode == 0, run.stdout + run.stderr
    started = google.lines("pod", "worker-0", "started")[-1]
    # The token is new each time, and the same on both sides.
    tokens.append(google.lines("judge", "token"))
    assert google.lines("pod", "worker-1", "token") == tokens[-1]
    assert tokens[-1][0] not in run.stdout
    assert started == f"{DISCOVER} --config.sidecar.address=10.9.9.9:50051"
  assert tokens[0] != tokens[1]
  (served,) = google.lines("judge", "served")
  assert "--host=0.0.0.0" in served and "--role=embedder=minilm://" in served
  assert (google.folder / "judge" / "engine").exists()
  assert google.lines("judge", "fmd_jax_sidecar", "log.before")[-1] == "sidecar stopped"
  assert google.run("tpu_pod", "delete", *PLACE, "--sidecar_vm=judge").returncode == 1
  group = int(google.lines("judge", "fmd_jax_sidecar", "group")[0])
  subprocess.run(["kill", "-KILL", "--", f"-{group}"], check=True)
  google.run("tpu_pod", "delete", *PLACE, "--sidecar_vm=judge", "--yes")
  assert google.state["instances"] == google.state["nodes"] == {}


def test_showing_can_end_before_the_run_and_stop_ends_it(google):
  (google.folder / "die").write_text("none: all wait")
  process = google.start("tpu_pod", *PLACE, *WHAT)
  cloud.wait_for(process, "] step 0", times=2)  # both would save
  process.send_signal(signal.SIGINT)
  rest, _ = process.communicate(timeout=60)
  assert process.returncode == 130 and "The run goes on." in rest
  twice = google.run("tpu_pod", "start", *PLACE, *WHAT)
  # Two of them would write into one workdir.
  assert "a command is under way" in twice.stderr and "`stop` ends it" in twice.stderr
  refused = google.run("tpu_pod", "stop", *PLACE)
  assert "say --yes" in refused.stderr
  stopped = google.run("tpu_pod", "stop", *PLACE, "--yes")
  assert stopped.stdout.count("ended with exit code 75") == 2
  logs = google.run("tpu_pod", "logs", *PLACE)
  assert logs.returncode == 75 and "was asked to stop and saved" in logs.stderr


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ((*PLACE, *WHAT, "--config.stepz=3"), 'Did you mean "steps"'),
    ((*PLACE, *WHAT[:2]), "--workdir must be given"),
    ((*WHAT,), "--zone must be given"),
    (("walk", *PLACE, *WHAT), "walk: give one of run, create"),
    ((*PLACE, *WHAT, "--workdir=/tmp/x"), "is on each worker's own disk"),
    ((*PLACE, *WHAT, "--config=/etc/passwd"), "/etc/passwd"),
    (("start", *PLACE, *WHAT, "--pass_env=NO_SUCH"), "NO_SUCH is not set"),
  ],
)
def test_a_mistake_is_told(google, arguments, expected):
  run = google.run("tpu_pod", *arguments)
  assert run.returncode != 0
  assert expected in run.stderr + run.stdout
  assert "Traceback" not in run.stderr
  if "disk" not in expected:  # that needs the number of workers
    assert google.calls() == []


def test_without_gcloud(tmp_path):
  run = cloud.Cloud(tmp_path / "cloud").run("tpu_pod", *PLACE, *WHAT)
  assert "gcloud is not on PATH" in run.stderr and "--dry_run" in run.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="no real gcloud here")
@pytest.mark.parametrize("options", OPTIONS)
def test_the_real_tool_knows_every_argument(tmp_path, options):
  """One unknown flag more is all that its parser refuses; it asks nobody for that."""
  bare = cloud.Cloud(tmp_path / "cloud")
  tried = set()
  for action in ("run", "stop", "delete"):
    run = bare.run("tpu_pod", action, *PLACE, *WHAT, *options, "--dry_run")
    for words in commands(run.stdout):
      shape = tuple(word.partition("=")[0] for word in words)
      if shape in tried:
        continue
      tried.add(shape)
      done = subprocess.run(
        [*words, "--no-such-flag"],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "config")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
      )
      assert done.returncode == 2
      assert "unrecognized arguments: --no-such-flag" in done.stderr, done.stderr


@pytest.mark.parametrize(
  "call",
  [
    "compute tpus tpu-vm create pod --version=v2",  # no zone
    "compute tpus tpu-vm create pod --zone=us-west4-a --runtime-version=v2",
    "compute tpus tpu-vm ssh pod --zone=a --worker=first",
    "compute tpus queued-resources create q --zone=a --accelerator-type=v --node-id=n",
    "compute tpus tpu-vm remove pod --zone=a",
    "compute instances create vm --accelerator=nvidia-l4",
  ],
)
def test_the_fake_refuses_what_the_real_tool_refuses(call):
  with pytest.raises(grammar.UsageError):
    grammar.gcloud(call.split())
