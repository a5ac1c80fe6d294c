"""A sidecar as a child process: started, lost, found again, ended."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from absl import logging

from fmd_jax import inference
from fmd_jax.inference import Request, channel, client
from fmd_jax.sidecar import process
from tests.ports import free_port
from tests.sidecar.conftest import picture, wait_for

ROOT = pathlib.Path(__file__).parents[2]


def request(question: str, *images: bytes) -> Request:
  return Request([{"role": "user", "content": ""}], images, {"question": question})


def gone(pid: int) -> bool:
  """Whether a process has ended, also when nobody has collected it."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return True
  return stat.rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def said(monkeypatch):
  lines = []
  monkeypatch.setattr(logging, "warning", lambda text, *a: lines.append(text % a))
  monkeypatch.setattr(client, "_SAY_AGAIN_SECONDS", 1e9)
  return lines


def test_start_and_stop(script, tmp_path):
  roles = {"answerer": script("echo"), "embedder": script("embed")}
  with process.start(roles, log=tmp_path / "logs" / "s.log", threads=1) as sidecar:
    # Wrong: a process group of its own, which a killed run leaves behind.
    assert os.getpgid(sidecar.pid) == os.getpgid(0)
    model = inference.resolve(sidecar.spec("answerer"))
    assert model.generate([request("a")])[0].text.startswith("a|")
    assert sidecar.alive()
    sidecar.check()
    with pytest.raises(KeyError, match="no role 'nobody'"):
      sidecar.spec("nobody")
    # Ctrl-C reaches the whole group; it is the parent's to act upon.
    os.kill(sidecar.pid, signal.SIGINT)
    time.sleep(0.2)
    assert sidecar.alive()
  assert not sidecar.alive()
  assert "serving at" in sidecar.log.read_text()
  with pytest.raises(inference.InferenceError, match="ended with exit code 0"):
    sidecar.check()
  sidecar.stop()


def test_its_math_threads_do_not_spin_unless_told_to(tmp_path, monkeypatch):
  # Beside a busy trainer, spinning threads make torch ten times slower.
  code = tmp_path / "says.py"
  code.write_text(
    "import os\n\n\ndef say(request):\n  return os.environ['OMP_WAIT_POLICY']"
  )
  for told, wanted in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if told:
      monkeypatch.setenv("OMP_WAIT_POLICY", told)
    roles = {"answerer": f"scripted://{code}:say"}
    with process.start(roles, log=tmp_path / "s.log", threads=1) as sidecar:
      model = inference.resolve(sidecar.spec("answerer"))
      assert model.generate([request("a")])[0].text == wanted


def test_a_model_that_does_not_load_ends_it_with_its_log(script, tmp_path):
  with pytest.raises(inference.InferenceError) as error:
    process.start({"answerer": script("nobody")}, log=tmp_path / "s.log")
  assert "ended with exit code 1" in str(error.value)
  assert "role answerer" in str(error.value)
  assert "no function 'nobody'" in str(error.value)


def test_a_model_that_loads_for_too_long(tmp_path):
  (tmp_path / "s.py").write_text("import time; time.sleep(250)\n")
  begun = time.monotonic()
  with pytest.raises(inference.InferenceError, match="not ready after 3 s"):
    process.start(
      {"a": f"scripted://{tmp_path}/s.py:f"}, log=tmp_path / "s.log", timeout=3
    )
  assert time.monotonic() - begun < 200


def test_it_ends_with_its_parent(script, tmp_path):
  # Also when the parent is killed and can clean up nothing.
  code = textwrap.dedent(f"""
    import time
    from fmd_jax.sidecar import process
    s = process.start({{"a": {script("echo")!r}}}, log={str(tmp_path / "s.log")!r})
    print(s.pid, flush=True)
    time.sleep(60)
  """)
  parent = subprocess.Popen(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
  )
  try:
    pid = int(parent.stdout.readline())
    assert not gone(pid)
  finally:
    parent.kill()
    parent.communicate()
  try:
    wait_for(lambda: gone(pid))
  finally:
    if not gone(pid):
      os.kill(pid, signal.SIGKILL)


def test_a_call_survives_the_death_of_its_sidecar(script, tmp_path, said):
  # Wrong: the call fails; or it goes on without its images, which the new process
  # has never seen; or nobody is told why the run stands still.
  port = free_port()
  roles, log = {"a": script("slow")}, tmp_path / "s.log"
  requests = [request(f"q{i}", picture(b"one"), picture(bytes([i]))) for i in range(3)]
  first = process.start(roles, log=log, port=port)
  try:
    model = inference.resolve(first.spec("a"), deadline=200)
    expected = model.generate(requests)
    name = model.name
    assert said == []
    (tmp_path / "slow").touch()
    (tmp_path / "called").unlink()
    replies = []
    caller = threading.Thread(target=lambda: replies.extend(model.generate(requests)))
    caller.start()
    wait_for((tmp_path / "called").exists)
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: said)
    first.stop()
    (tmp_path / "slow").unlink()
    with process.start(roles, log=log, port=port):
      caller.join(120)
      assert replies == expected
      assert model.name == name
  finally:
    first.stop()
  assert f"sidecar at 127.0.0.1:{port} does not answer; waiting (" in said[0]
  assert "answers again after" in said[-1]
  assert len(said) == 2, "one line, not one per attempt"


def test_killed_at_any_moment_nothing_is_lost_and_nothing_twice(tmp_path):
  # The long form, a whole run: `python -m tests.bench.killed_sidecar`.
  (tmp_path / "s.py").write_text(
    "import time\n\ndef reply(request):\n  time.sleep(0.005)\n"
    "  return request.fields['question']\n"
  )
  roles, log = {"a": f"scripted://{tmp_path}/s.py:reply"}, tmp_path / "s.log"
  port = free_port()
  sidecars = [process.start(roles, log=log, port=port)]
  ended, whole = threading.Event(), []

  def one_more():
    seen = len(whole)
    wait_for(lambda: len(whole) > seen)

  def killer():
    try:
      for pause in (0.05, 0.33, 0.61):
        one_more()
        time.sleep(pause)
        os.kill(sidecars[-1].pid, signal.SIGKILL)
        sidecars[-1].stop()
        sidecars.append(process.start(roles, log=log, port=port))
      one_more()
    finally:
      ended.set()

  thread = threading.Thread(target=killer)
  thread.start()
  try:
    model = inference.resolve(f"grpc://127.0.0.1:{port}/a", deadline=120)
    batch = 0
    while not ended.is_set():
      asked = [request(f"q{batch}-{i}") for i in range(20)]
      # `stream` would show a second reply to one request; `generate` hides it.
      found = list(model.stream(asked))
      assert sorted(index for index, _ in found) == list(range(20))
      assert all(reply.text == f"q{batch}-{index}" for index, reply in found)
      batch += 1
      whole.append(batch)
  finally:
    thread.join()
    sidecars[-1].stop()
  assert batch > 3
  assert len(sidecars) == 4


def test_another_model_at_the_same_address_is_refused(running, script):
  # Wrong: half of a run's answers are another model's, under the first one's name.
  with running({"a": script("echo"), "e": script("embed")}) as address:
    port = int(address.rpartition(":")[2])
    model = inference.resolve(f"grpc://{address}/a", deadline=30)
    embedder = inference.resolve_embedder(f"grpc://{address}/e", deadline=30)
    model.generate([request("x")])
    embedder.embed(["x"])
  other = {"a": script("shout"), "e": script("echo_length")}
  with running(other, port=port):
    with pytest.raises(inference.InferenceError, match="another model for a"):
      model.generate([request("x")])
    with pytest.raises(inference.InferenceError, match="another model for e"):
      embedder.embed(["x"])


def test_a_sidecar_that_stays_away_is_one_clear_error(said):
  model = inference.resolve("grpc://127.0.0.1:9/a", deadline=1)
  with pytest.raises(
    inference.InferenceError, match="127.0.0.1:9 did not answer within 1 s"
  ):
    model.generate([request("x")])
  assert len(said) == 1


def test_waiting_can_be_ended(said):
  # A sidecar that this very run started and lost will not come back.
  def check():
    raise inference.InferenceError("the sidecar ended")

  model = inference.resolve("grpc://127.0.0.1:9/a", while_waiting=check)
  with pytest.raises(inference.InferenceError, match="the sidecar ended"):
    model.generate([request("x")])


def loaded_by(code: str) -> list[str]:
  names = ["jax", "jaxlib", "flax", "torch", "transformers", "sentence_transformers"]
  run = subprocess.run(
    [sys.executable, "-c", f"{code}\nimport sys, json\n"
     f"print(json.dumps([n for n in {names} if n in sys.modules]))"],
    cwd=ROOT, capture_output=True, text=True, check=True,
  )  # fmt: skip
  return json.loads(run.stdout.splitlines()[-1])


def test_neither_side_loads_the_others_framework():
  # Wrong: 300 MB of jax in the sidecar, or torch's threads beside jax's.
  server = "import fmd_jax.sidecar.server as s\n"
  assert loaded_by(server + "s.Servicer(1).load({'j': 'oracle://'})") == []
  client = (
    "from fmd_jax import inference, answerer, verifier, evaluator\n"
    "from fmd_jax.sidecar import process\n"
    "inference.resolve('grpc://127.0.0.1:9/a')"
  )
  assert loaded_by(client) == []


@pytest.mark.slow
def test_torch_engines_do_not_load_jax():
  loaded = loaded_by(
    "from fmd_jax import inference\n"
    "inference.resolve_embedder('minilm://').embed(['a'])\n"
    "from fmd_jax.inference.engines import hf\n"
    "import transformers; transformers.Qwen2_5_VLForConditionalGeneration"
  )
  assert "torch" in loaded
  assert not {"jax", "jaxlib", "flax"} & set(loaded)


@pytest.mark.slow
def test_a_frozen_sidecar_is_noticed(script, tmp_path, said, monkeypatch):
  # Its connection stays open and silent. Wrong: the run stands still, unexplained,
  # until the deadline.
  options = dict(channel._OPTIONS)
  for name in options:
    if name.endswith(("keepalive_time_ms", "timeout_ms")):
      options[name] = 2_000
  monkeypatch.setattr(channel, "_OPTIONS", tuple(options.items()))
  with process.start({"a": script("echo")}, log=tmp_path / "s.log") as sidecar:
    model = inference.resolve(sidecar.spec("a"), deadline=200)
    expected = model.generate([request("x", picture(b"one"))])
    replies = []
    os.kill(sidecar.pid, signal.SIGSTOP)
    try:
      caller = threading.Thread(
        target=lambda: replies.extend(model.generate([request("x", picture(b"one"))]))
      )
      caller.start()
      wait_for(lambda: said)
    finally:
      os.kill(sidecar.pid, signal.SIGCONT)
    caller.join(120)
    assert replies == expected
