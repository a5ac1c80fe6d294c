"""`python -m launch.sidecar`: what it prints, what it refuses, how it ends."""

import os
import re
import signal
import subprocess
import sys

import pytest

from fmd_jax import inference
from fmd_jax.inference import Request, channel
from tests.runs import ROOT


def sidecar(*arguments, **environment):
  """The command with these arguments, its output in pipes."""
  return subprocess.Popen(
    [sys.executable, "-m", "launch.sidecar", *arguments],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != channel.TOKEN} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def ended(*arguments, **environment):
  """Exit code and output of a command that ends by itself."""
  process = sidecar(*arguments, **environment)
  try:
    out, err = process.communicate(timeout=120)
  finally:
    process.kill()
    process.wait()
  return process.returncode, out + err


def test_it_serves_tells_what_it_does_and_ends_when_told(tmp_path):
  # Wrong: a status that needs the token and does not say so, a stop with a traceback.
  (tmp_path / "s.py").write_text("def f(request):\n  return 'x'\n")
  process = sidecar(
    "--port=0", f"--role=a=scripted://{tmp_path}/s.py:f", FMD_JAX_TOKEN="secret"
  )
  try:
    line = process.stdout.readline()
    assert line.startswith("sidecar ready at 127.0.0.1:"), process.stderr.read()
    address = line.split()[-1]
    code, said = ended(f"--status={address}", FMD_JAX_TOKEN="secret")
    assert code == 0 and f"{address}: fmd_jax " in said
    head = next(row for row in said.splitlines() if row.split()[:1] == ["role"])
    for name in ("queued", "in flight", "errors", "cache hits", "tokens/s"):
      assert name in head
    code, said = ended(f"--status={address}")
    assert code == 1 and "UNAUTHENTICATED" in said and "FMD_JAX_TOKEN" in said
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
    process.wait()
  assert process.returncode == 0
  assert "Traceback" not in err and "secret" not in out + err


def test_one_of_several_that_is_killed_is_done_without_and_taken_back(
  tmp_path, monkeypatch
):
  # Wrong: the run waits for it though another one is there; rows lost or twice.
  (tmp_path / "s.py").write_text(
    "import pathlib, time\n\n\ndef f(request):\n"
    "  pathlib.Path(__file__).with_name(str(time.monotonic_ns())).touch()\n"
    "  time.sleep(0.01)\n  return request.fields['question']\n"
  )
  role = f"--role=a=scripted://{tmp_path}/s.py:f"
  processes = [sidecar("--port=0", role) for _ in range(2)]
  try:
    ports = []
    for process in processes:
      line = process.stdout.readline()
      assert line, process.stderr.read()
      ports.append(line.split(":")[-1].strip())
    monkeypatch.setattr("fmd_jax.inference.client._RETRY_SECONDS", 0.2)
    spec = "grpc://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/a"
    model = inference.resolve(spec, deadline=60)
    asked = [Request([], fields={"question": f"q{i}"}) for i in range(200)]
    found = []
    for index, reply in model.stream(asked):
      found.append((index, reply.text))
      if len(found) == 20:
        processes[0].kill()
        processes[0].wait()
    assert sorted(found) == [(i, f"q{i}") for i in range(200)]
    told = model._connection.status()
    assert isinstance(told[f"127.0.0.1:{ports[0]}"], str)
    processes.append(sidecar(f"--port={ports[0]}", role))
    assert processes[-1].stdout.readline()
    for _ in range(100):
      model.generate(asked[:40])
      back = model._connection.status()[f"127.0.0.1:{ports[0]}"]
      if not isinstance(back, str) and back.roles[0].requests:
        break
    else:
      pytest.fail("it was never asked again")
  finally:
    for process in processes:
      process.kill()
      process.communicate()


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ((), "give at least one --role name=spec"),
    (("--role=oracle://",), "is not name=spec"),
    (("--role=a=oracle://", "--role=a=oracle://"), "--role a is given twice"),
    (("--role=a=oracl://", "--port=0"), "role a: .*no engine 'oracl'"),
    (("--role=a=oracle://", "--host=0.0.0.0"), "lets everybody in: set FMD_JAX_TOKEN"),
    (("--role=a=oracle://", "--cert=c.pem"), "both a certificate and its key"),
    (("--status=127.0.0.1:9",), "127.0.0.1:9: UNAVAILABLE"),
    (("--status=nowhere",), "is not grpc://host:port/role"),
  ],
)
def test_what_cannot_be_is_one_line_and_a_code(arguments, says):
  # Wrong: a traceback, or exit code 0.
  code, said = ended(*arguments)
  assert code == 1
  assert re.search(says, said) and "Traceback" not in said
