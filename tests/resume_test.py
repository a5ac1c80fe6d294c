"""A run that is killed or stopped, and goes on, is the run that was not."""

import contextlib
import signal
import time

import pytest

from fmd_jax import records
from fmd_jax.stopping import EXIT_CODE
from tests import kill_and_resume
from tests.kill_and_resume import QUICK, differences, finish, start
from tests.runs import STEPS


@contextlib.contextmanager
def running_until(pattern, workdir, flags):
  """A run that has written such a file; it ends with the block."""
  process = start(workdir, flags)
  try:
    while not list(workdir.glob(pattern)):
      log = (workdir / "discover.log").read_text()[-2000:]
      assert process.poll() is None, log
      time.sleep(0.02)
    yield process
  finally:
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a machine that others use
def test_a_run_that_is_killed_or_stopped_goes_on_exactly(played_run, tmp_path):
  # Wrong: a batch or a random number again, banks without the last step's failures,
  # Adam from its start, a row lost or twice, a part that is asked again and differs.
  whole, other = played_run / "run", tmp_path / "other"
  # In the middle of a training, with a checkpoint behind it or none.
  with running_until("records/grpo/step-000001*", other, QUICK) as process:
    process.kill()
    assert process.wait() == -signal.SIGKILL
  # Unseen images: some steps are there, and stay.
  with running_until("records/grpo_heldout/step-000000*", other, QUICK) as process:
    process.kill()
    assert process.wait() == -signal.SIGKILL
  finish(other, QUICK)
  assert differences(whole, other) == []
  # What the comparison would see.
  assert records.read_table(other, "grpo").num_rows == STEPS * 4 * 3 * 2
  (other / "metrics.json").write_text("{}")
  assert differences(whole, other) == ["metrics.json"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_leaves_a_checkpoint_and_a_code_of_its_own(played_run, tmp_path):
  # Wrong: the steps since the last periodic checkpoint are lost, or exit code 1.
  flags = (*QUICK, "--config.checkpoint.every=100")
  with running_until("records/grpo/step-000000*", tmp_path, flags) as process:
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert process.wait(60) == EXIT_CODE
    assert time.monotonic() - begun < 30
  kept = [p.name for p in (tmp_path / "checkpoints" / "grpo").iterdir()]
  assert any(name.isdigit() and int(name) >= 1 for name in kept), kept
  assert "start it again to go on" in (tmp_path / "discover.log").read_text()
  finish(tmp_path, flags)
  assert differences(played_run / "run", tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("staleness", [0, 1])
def test_kills_at_random_moments(tmp_path, monkeypatch, staleness):
  # With staleness 1 a batch is in flight at each of them.
  flags = ["--quick", "--kills=4", f"--workdir={tmp_path}"]
  flags += [f"--flag=--config.rollout.staleness={staleness}"]
  monkeypatch.setattr("sys.argv", ["kill_and_resume", *flags])
  with pytest.raises(SystemExit) as end:
    kill_and_resume.main()
  assert end.value.code == 0
