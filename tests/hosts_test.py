"""One run over several processes is the run of one."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from fmd_jax import hosts, records
from fmd_jax.models import tensor_files
from tests.kill_and_resume import QUICK
from tests.ports import free_port
from tests.runs import ROOT, STEPS

VOLATILE = ["run_id", "wall_time"]


def run(folder: pathlib.Path, count: int, *flags: str) -> pathlib.Path:
  """A finished run of so many processes; `banks-<i>` has the banks of each."""
  coordinator = f"--coordinator=127.0.0.1:{free_port()}"
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  started = []
  folder.mkdir(exist_ok=True, parents=True)
  try:
    for i in range(count):
      several = [coordinator, f"--num_processes={count}", f"--process_id={i}"]
      command = [sys.executable, "-m", "tests.hosted", str(folder / f"banks-{i}")]
      command += [f"--workdir={folder / 'run'}", *QUICK, *flags]
      command += several if count > 1 else []
      with open(folder / f"log-{i}", "wb") as log:
        started.append(
          subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        )
    codes = [process.wait(500) for process in started]
  finally:
    for process in started:
      process.kill()
  logs = "\n".join((folder / f"log-{i}").read_text()[-1500:] for i in range(count))
  assert codes == [0] * count, logs
  return folder


def weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
  with tensor_files.TensorReader(folder) as reader:
    found = {}
    for name, tensor in reader.tensors.items():
      data = tensor.path.read_bytes()[tensor.offset :]
      count = int(np.prod(tensor.shape))
      found[name] = np.frombuffer(data, tensor.dtype, count)
    return found


def check(one: pathlib.Path, many: pathlib.Path, count: int) -> None:
  for method in ("zero_shot", "grpo"):
    for split in ("train", "heldout"):
      tables = [records.read(f / "run", method, split) for f in (one, many)]
      # Hosts' shards follow each other as their images do in the batch of one.
      for column in tables[0].columns.difference(VOLATILE):
        ours, theirs = (table[column] for table in tables)
        if ours.dtype == float:
          np.testing.assert_allclose(ours, theirs, atol=2e-4, err_msg=column)
        else:
          assert ours.equals(theirs), (method, split, column)
  names = [p.name for p in (many / "run" / "records" / "grpo").iterdir()]
  assert sorted(names)[:count] == [
    f"step-000000-host-{i:05d}-of-{count:05d}.parquet" for i in range(count)
  ]
  ours, theirs = (weights(f / "run" / "questioner_hf") for f in (one, many))
  started = weights(ROOT / "fmd_jax" / "testbed" / "assets" / "questioner")
  moved = 0.0
  for name, value in ours.items():
    assert np.abs(value - theirs[name]).max() <= 1e-5, name
    moved = max(moved, np.abs(value - started[name]).max())
  assert moved > 1e-4, "nothing was trained"
  banks = [(many / f"banks-{i}").read_text() for i in range(count)]
  # Each process's own failures only would be fewer, and others.
  assert all(text == banks[0] for text in banks) and len(banks[0].splitlines()) == STEPS
  sizes = [line.split()[0] for line in banks[0].splitlines()]
  assert sizes == [
    line.split()[0] for line in (one / "banks-0").read_text().splitlines()
  ]
  assert int(sizes[0]) > 0
  numbers = [records.read_measurements(f / "run", "grpo") for f in (one, many)]
  for name in ("reward/mean", "rollout/fdr", "rollout/failures", "rollout/qvr"):
    np.testing.assert_allclose(numbers[0][name], numbers[1][name], atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine that others use
def test_two_processes_make_the_run_of_one(played_run, tmp_path):
  # Wrong: each host's own banks and prefix counts, the same images on both, keys that
  # depend on the host, a gradient of one host's rows.
  check(played_run, run(tmp_path / "2", 2), 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_processes_make_the_run_of_one(played_run, tmp_path):
  check(played_run, run(tmp_path / "4", 4), 4)


def test_what_fails_on_one_process_is_raised_on_all(monkeypatch):
  # Wrong: the others wait for a process that will not come.
  def fail():
    raise ValueError("no room on the disk")

  outcome = hosts.together(lambda: 3)
  assert outcome == [3]
  with pytest.raises(ValueError, match="no room"):
    hosts.together(fail)
  # As the second process sees it.
  monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
  failed = hosts._Outcome(None, "ValueError: no room on the disk", False)
  monkeypatch.setattr(hosts, "exchange", lambda own: [failed, own])
  with pytest.raises(hosts.HostError, match="process 0 of 2: ValueError: no room"):
    hosts.together(lambda: 3)
  stopped = hosts._Outcome(None, "Stopped: by a signal", True)
  monkeypatch.setattr(hosts, "exchange", lambda own: [stopped, own])
  with pytest.raises(hosts.Stopped):
    hosts.together(lambda: 3)


@pytest.mark.parametrize(
  ("environment", "several"),
  [
    ({}, False),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, True),
    # An allocation of four tasks in which one command is run by hand.
    ({"SLURM_NTASKS": "4"}, False),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
  ],
)
def test_a_cluster_is_noticed(environment, several):
  assert hosts._in_a_cluster({"JAX_PLATFORMS": "cpu", **environment}) == several


def test_half_of_the_flags_is_refused():
  with pytest.raises(ValueError, match="all of --coordinator"):
    hosts.initialize("127.0.0.1:1", 2, None)
  with pytest.raises(ValueError, match="process 2 of 2"):
    hosts.initialize("127.0.0.1:1", 2, 2)
