"""launch.slurm as a user starts it, against commands that start jobs right here."""

import signal
import subprocess

import pytest

from tests.launch import cloud, grammar
from tests.launch.cloud import wait_for

COMMON = ("--name=run", "--poll=0.2", "--nodes=1", "--gpus_per_node=2")


@pytest.fixture
def cluster(tmp_path):
  made = cloud.Cloud(tmp_path / "cloud", *cloud.SLURM)
  made.what = (
    "--config=configs/quickstart.py",
    f"--workdir={tmp_path / 'shared'}",
    "--config.steps=9",
  )
  yield made
  made.end()


def test_the_script_is_one_that_sbatch_takes(tmp_path):
  bare = cloud.Cloud(tmp_path / "cloud")  # without any of the commands
  arguments = ("--config=configs/quickstart.py", "--workdir=gs://b/run", *COMMON)
  more = ("--sidecar_gpus=1", "--sbatch=--partition=a100", "--setup=module load cuda")
  for action in ("script", "run", "stop", "logs"):
    run = bare.run("slurm", action, *arguments, *more, "--dry_run")
    assert run.returncode == 0, run.stderr
    if action == "script":
      trainer, sidecar = grammar.batch_script(run.stdout)
      assert trainer["--ntasks-per-node"] == trainer["--gpus-per-node"] == "2"
      assert trainer["--partition"] == sidecar["--partition"] == "a100"
      assert "module load cuda\n" in run.stdout
      check = subprocess.run(["bash", "-n"], input=run.stdout, text=True)
      assert check.returncode == 0


def test_a_job_runs_to_its_end(cluster):
  (cluster.folder / "busy").touch()  # SLURM's controller, once: that is no end
  run = cluster.run("slurm", *COMMON, *cluster.what, "--sidecar_gpus=1")
  assert run.returncode == 0, run.stdout + run.stderr
  for worker in (0, 1):
    (started,) = cluster.lines(f"task-{worker}", "0", "started")
    assert "-m launch.discover --config=configs/quickstart.py" in started
    assert started.endswith("--config.steps=9 --config.sidecar.address=gpu7:50051")
  assert "finished" in run.stdout and "# job 101: COMPLETED" in run.stdout
  token = cluster.lines("task-0", "1", "token")
  assert len(token[0]) == 32 and cluster.lines("task-1", "0", "token") == token
  # `scontrol write batch_script` shows it to others.
  assert token[0] not in (cluster.folder / "jobs" / "101" / "script").read_text()
  (served,) = cluster.lines("task-0", "1", "served")
  assert "--role=answerer=hf://testbed/answerer" in served
  # A sidecar that outlived the trainer would hold a GPU node for nothing.
  assert "sidecar stopped" in run.stdout


def test_a_task_that_dies_is_named_and_the_same_command_goes_on(cluster):
  (cluster.folder / "die").write_text("1")
  process = cluster.start("slurm", *COMMON, *cluster.what)
  wait_for(process, "out of luck")
  # As srun --wait does after its time.
  assert cluster.run("slurm", "stop", "--name=run").returncode == 1  # asks
  assert cluster.run("slurm", "stop", "--name=run", "--yes").returncode == 0
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 1
  assert "first node0: task 0: Exited with exit code 75" in errors
  log = cluster.folder.parent / "shared" / "slurm-101.log"
  assert "node1: task 1: Exited with exit code 137" in log.read_text()
  second = cluster.run("slurm", *COMMON, *cluster.what)
  assert second.returncode == 0, second.stderr
  assert "goes on at step 7" in second.stdout


def test_a_job_whose_time_is_over_saves_and_is_queued_again(cluster):
  (cluster.folder / "die").write_text("none: all wait")
  process = cluster.start("slurm", *COMMON, *cluster.what)
  wait_for(process, "step 0", times=2)  # both would save
  process.send_signal(signal.SIGINT)
  rest, _ = process.communicate(timeout=60)
  assert process.returncode == 130 and "The job goes on." in rest
  again = cluster.start("slurm", *COMMON, *cluster.what)
  # Submitted twice, two jobs would write into one workdir.
  wait_for(again, "# run is there already: job 101")
  cluster.run("slurm", "stop", "--name=run", "--yes")
  again.communicate(timeout=60)
  # The batch shell hears the signal, and the tasks from it: they save, all of them.
  assert (cluster.folder / "requeued").read_text() == "101"
  for worker in (0, 1):
    assert (cluster.folder / f"task-{worker}" / "0" / "checkpoint").exists()


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    (("--workdir=/x",), "--config must be given"),
    (("--config=configs/quickstart.py", "--workdir=/x", "--nodes=0"), "nodes"),
    (("logs", "--workdir=/x"), "no job fmd-jax waits or runs"),
  ],
)
def test_a_mistake_is_told(cluster, arguments, expected):
  run = cluster.run("slurm", *arguments)
  assert run.returncode != 0
  assert expected in run.stderr + run.stdout and "Traceback" not in run.stderr
