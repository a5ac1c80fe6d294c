"""vLLM on a CPU serves the tiny answerer through the sidecar; see the README.

python tests/bench/vllm_env.py
python -m pytest -m vllm tests/vllm_test.py
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from fmd_jax import inference
from fmd_jax.inference import Request
from fmd_jax.prompts import judge as template
from tests.bench import vllm_env
from tests.bench.sidecar import scene_requests
from tests.ports import free_port

ROOT = pathlib.Path(__file__).parents[1]
ROLE = "vllm://testbed/answerer?dtype=float32&kv_mb=64&eager=1&sequences=32&length=512"
# Else vLLM compiles for minutes, takes gigabytes, pins threads to cores that others
# use, and calls home.
ENVIRONMENT = {
  "HF_HUB_OFFLINE": "1",
  "VLLM_NO_USAGE_STATS": "1",
  "DO_NOT_TRACK": "1",
  "OMP_NUM_THREADS": "1",
  "VLLM_CPU_OMP_THREADS_BIND": "nobind",
  "TORCHDYNAMO_DISABLE": "1",
}

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def python():
  """vLLM's interpreter; FMD_JAX_VLLM names another folder of it."""
  folder = pathlib.Path(os.environ.get("FMD_JAX_VLLM", vllm_env.FOLDER))
  found = vllm_env.python(folder)
  if found is None:
    pytest.skip(f"no vLLM in {folder}: python tests/bench/vllm_env.py makes it")
  return str(found)


@contextlib.contextmanager
def started(command, log):
  """A process; it and all that it has started are gone at the end."""
  environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
  with open(log, "ab") as out:
    process = subprocess.Popen(
      command, cwd=ROOT, env=environment, stdout=out, stderr=out
    )
  try:
    yield process
  finally:
    children = _descendants(process.pid)
    process.terminate()
    try:
      process.wait(60)
    finally:
      process.kill()
      process.wait()
      for pid in children:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def serving(command, port, log, seconds=800):
  """A process that listens at a port once it is ready."""
  with started(command, log) as process:

    def listens():
      with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens, seconds, process, log)
    yield process


def until(condition, seconds, process, log):
  end = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, log.read_text()[-3000:]
    assert time.monotonic() < end, log.read_text()[-3000:]
    time.sleep(0.2)


@pytest.fixture(scope="module")
def sidecar(python, tmp_path_factory):
  port = free_port()
  command = [
    python,
    "-m",
    "launch.sidecar",
    f"--port={port}",
    f"--role=answerer={ROLE}",
  ]
  log = tmp_path_factory.mktemp("vllm") / "sidecar.log"
  with serving(command, port, log) as process:
    model = inference.resolve(f"grpc://127.0.0.1:{port}/answerer", deadline=800)
    assert model.name == "testbed/answerer"
    yield model, process, log


def test_greedy_replies_are_those_of_hf(sidecar):
  # They differ where two tokens are equally likely but for rounding.
  there, _, _ = sidecar
  here = inference.load_engine("hf://testbed/answerer?threads=1")
  assert inference.identity(here) == inference.identity(there)
  requests = scene_requests(500)
  expected = [r for i in range(0, 500, 50) for r in here.generate(requests[i : i + 50])]
  found = there.generate(requests)
  assert all(reply.error == "" for reply in found)
  differ = [
    (request.fields["question"], a.text, b.text)
    for request, a, b in zip(requests, expected, found, strict=True)
    if (a.text, a.finish) != (b.text, b.finish)
  ]
  print(f"\n{len(differ)} of {len(requests)} differ: {differ[:10]}")
  assert len(differ) <= 0.05 * len(requests)
  # Wrong: replies of a model that says the same to everything.
  assert len({reply.text for reply in expected}) > 10


def test_streams_seeds_schemas_and_errors(sidecar):
  model, _, _ = sidecar
  requests = scene_requests(8)
  indices = [index for index, _ in model.stream(requests)]
  assert sorted(indices) == list(range(8))
  asked = requests[0]
  hot = [
    Request(asked.messages, asked.images, max_tokens=6, temperature=2.0, seed=seed)
    for seed in (1, 1, 2, 3, 4, 5)
  ]
  first, again, *others = [reply.text for reply in model.generate(hot)]
  assert first == again
  assert set(others) != {first}
  held = Request(asked.messages, asked.images, max_tokens=150, schema=template.SCHEMA)
  two_images = Request(asked.messages, asked.images * 2)
  text, bad, good = model.generate([held, two_images, asked])
  assert text.text.replace(" ", "").startswith('{"grammatical":{"why":"')
  assert bad.error
  assert good.error == ""
  # A caller that leaves: what it left is freed, and others are served.
  stream = model.stream([Request(asked.messages, asked.images, max_tokens=300)] * 20)
  next(stream)
  stream.close()
  assert model.generate([asked])[0].text == good.text


def test_its_processes_end_with_it(sidecar):
  # Wrong: vLLM's engine, a process of its own, keeps its memory when we are killed.
  _, process, _ = sidecar
  children = _descendants(process.pid)
  assert len(children) >= 2  # an engine, and who watches
  process.kill()
  process.wait()
  assert left_of(children) == []


def test_a_stop_leaves_no_process_and_neither_does_a_kill_while_it_loads(
  python, tmp_path
):
  # Wrong: who watches is started once the engine is there, or is itself what stays.
  port, log = free_port(), tmp_path / "sidecar.log"
  command = [python, "-m", "launch.sidecar", f"--port={port}", f"--role=a={ROLE}"]
  with started(command, log) as process:

    def loading():
      return any("multiprocessing" in _command(p) for p in _descendants(process.pid))

    until(loading, 800, process, log)
    time.sleep(2)  # it looks twice a second
    children = _descendants(process.pid)
    process.kill()
    process.wait()
    assert left_of(children) == []
  with serving(command, port, log) as process:
    model = inference.resolve(f"grpc://127.0.0.1:{port}/a", deadline=800)
    assert model.generate(scene_requests(1))[0].error == ""
    children = _descendants(process.pid)
    assert len(children) >= 2
    process.terminate()
    assert process.wait(60) == 0
    assert left_of(children) == []


def test_an_engine_that_dies_ends_the_sidecar(python, tmp_path):
  # Wrong: a sidecar that is SERVING and fails at every call.
  port, log = free_port(), tmp_path / "sidecar.log"
  command = [python, "-m", "launch.sidecar", f"--port={port}", f"--role=a={ROLE}"]
  with serving(command, port, log) as process:
    model = inference.resolve(f"grpc://127.0.0.1:{port}/a", deadline=800)
    assert model.generate(scene_requests(1))[0].error == ""
    children = _descendants(process.pid)
    for pid in children:
      if "spawn_main" in _command(pid) or "EngineCore" in _command(pid):
        os.kill(pid, signal.SIGKILL)
    model = inference.resolve(f"grpc://127.0.0.1:{port}/a", deadline=20)
    with pytest.raises(inference.InferenceError, match="did not answer within 20 s"):
      model.generate(scene_requests(1))
    assert process.wait(60) == 1
    assert left_of(children) == []
  assert "has ended" in log.read_text()


def left_of(children: list[int]) -> list[int]:
  """Those that are still there after a while; they are ended then."""
  end = time.monotonic() + 60
  while any(map(_alive, children)) and time.monotonic() < end:
    time.sleep(0.5)
  left = [pid for pid in children if _alive(pid)]
  for pid in left:
    os.kill(pid, signal.SIGKILL)
  return left


def _command(pid: int) -> str:
  try:
    return pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
  except OSError:
    return ""


def _descendants(pid: int) -> list[int]:
  parents = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      rest = path.read_text().rpartition(")")[2].split()
      parents.setdefault(int(rest[1]), []).append(int(path.parent.name))
  found, todo = [], [pid]
  while todo:
    children = parents.get(todo.pop(), [])
    found += children
    todo += children
  return found


def _alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


def test_openai_engine_asks_a_real_vllm(python, tmp_path, monkeypatch):
  port, folder = free_port(), inference.checkpoint_folder("hf://testbed/answerer")
  # Its command line looks for a distribution named vllm, and this one is vllm-cpu.
  command = [
    python, "-m", "vllm.entrypoints.openai.api_server", f"--model={folder}",
    "--served-model-name=answerer", "--host=127.0.0.1", f"--port={port}",
    "--dtype=float32", "--enforce-eager", "--max-model-len=512", "--max-num-seqs=32",
    f"--kv-cache-memory-bytes={64 << 20}",
    '--limit-mm-per-prompt={"image":1,"video":0}',
    # As `vllm://` has it: a small model may else write spaces for ever.
    '--structured-outputs-config={"backend":"xgrammar","disable_any_whitespace":true}',
    "--generation-config=vllm",
  ]  # fmt: skip
  monkeypatch.delenv("OPENAI_API_KEY", raising=False)
  with serving(command, port, tmp_path / "vllm.log"):
    here = inference.load_engine("hf://testbed/answerer?threads=1")
    there = inference.load_engine(f"openai://answerer@http://127.0.0.1:{port}/v1")
    requests = scene_requests(100)
    expected, found = here.generate(requests), there.generate(requests)
    assert [reply.error for reply in found] == [""] * 100
    same = sum(a.text == b.text for a, b in zip(expected, found, strict=True))
    print(f"\n{100 - same} of 100 differ")
    assert same >= 95
    assert all(reply.tokens for reply in found)
    # Held to a schema there, as `hf` can't be.
    asked = requests[0]
    held = Request(asked.messages, asked.images, max_tokens=150, schema=template.SCHEMA)
    (text,) = there.generate([held])
    assert text.text.replace(" ", "").startswith('{"grammatical":{"why":"')
    assert not here.generate([held])[0].text.startswith("{")
    wrong = inference.load_engine(f"openai://nobody@http://127.0.0.1:{port}/v1")
    with pytest.raises(inference.InferenceError, match="404"):
      wrong.generate(requests[:1])
