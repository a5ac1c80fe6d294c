"""Several sidecars behind one spec, and the doors of one: TLS, mutual TLS, tokens."""

import shutil
import subprocess
import time

import pytest

from fmd_jax import inference
from fmd_jax.inference import Request, client
from fmd_jax.sidecar import security
from tests.ports import free_port

SLOW = """
import time

def reply(request):
  time.sleep(0.01)
  return request.fields["question"]
"""


def requests(number: int) -> list[Request]:
  return [Request([], fields={"question": f"q{i}"}) for i in range(number)]


def texts(replies) -> list[str]:
  return [reply.text for reply in replies]


@pytest.fixture
def roles(tmp_path):
  (tmp_path / "s.py").write_text(SLOW)
  return {"a": f"scripted://{tmp_path}/s.py:reply"}


def answered(address: str) -> int:
  """Requests answered there; channels of one process share what gRPC waits before it
  connects again."""
  end = time.monotonic() + 20
  while True:
    (told,) = inference.connect(f"grpc://{address}/a").status().values()
    if not isinstance(told, str):
      return told.roles[0].requests
    assert time.monotonic() < end, told
    time.sleep(0.2)


def test_work_is_shared_and_each_request_is_answered_once(running, roles):
  # Wrong: all at the first one, or all at both.
  with running(roles) as one, running(roles) as two:
    model = inference.resolve(f"grpc://{one},{two}/a")
    assert texts(model.generate(requests(100))) == [f"q{i}" for i in range(100)]
    counts = answered(one), answered(two)
    assert sum(counts) == 100
    assert min(counts) >= 25
    # A small batch is not cut into crumbs.
    assert texts(model.generate(requests(3))) == ["q0", "q1", "q2"]


def test_one_that_is_gone_is_dropped_and_taken_back(running, roles, monkeypatch):
  # Wrong: the run ends, rows are lost, or the one that returned is never asked again.
  monkeypatch.setattr(client, "_RETRY_SECONDS", 0.2)
  port = free_port()
  with running(roles) as one:
    model = inference.resolve(f"grpc://{one},127.0.0.1:{port}/a", deadline=60)
    assert texts(model.generate(requests(64))) == [f"q{i}" for i in range(64)]
    assert answered(one) == 64
    with running(roles, port=port) as two:
      # gRPC itself waits a little before it connects again.
      end = time.monotonic() + 20
      while not answered(two) and time.monotonic() < end:
        time.sleep(0.3)
        model.generate(requests(64))
      assert answered(two) > 0
    assert texts(model.generate(requests(64))) == [f"q{i}" for i in range(64)]


def test_another_model_among_them_is_an_error(running, roles, script):
  with running(roles) as one, running({"a": script("echo")}) as two:
    model = inference.resolve(f"grpc://{one},{two}/a")
    with pytest.raises(inference.InferenceError, match="another model for a"):
      model.generate(requests(100))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
  """PEM files of an authority, of a server and of a client, and of a stranger."""
  if shutil.which("openssl") is None:
    pytest.skip("openssl makes the certificates")
  folder = tmp_path_factory.mktemp("pem")

  def openssl(*arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

  key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
  for name in ("ca", "stranger"):
    openssl(
      "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem",
      "-subj", f"/CN={name}", "-days", "2",
    )  # fmt: skip
  (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
  for name in ("server", "client"):
    openssl(
      "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
      f"/CN={name}",
    )  # fmt: skip
    openssl(
      "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
      "-CAcreateserial", "-out", f"{name}.pem", "-days", "2", "-extfile", "san",
    )  # fmt: skip
  return lambda name: str(folder / name)


def test_tls_and_mutual_tls(running, roles, certificates):
  # Wrong: a server that any certificate satisfies, a client that trusts any server.
  pem = certificates
  secure = security.Security("", pem("server.pem"), pem("server.key"))
  asked = requests(1)
  with running(roles, secure=secure) as address:
    spec = f"grpc://{address}/a?ca={pem('ca.pem')}"
    assert texts(inference.resolve(spec).generate(asked)) == ["q0"]
    for bad in (f"?ca={pem('stranger.pem')}", ""):
      with pytest.raises(inference.InferenceError, match="did not answer"):
        inference.resolve(f"grpc://{address}/a{bad}", deadline=1).generate(asked)
  mutual = security.Security("", pem("server.pem"), pem("server.key"), pem("ca.pem"))
  with running(roles, secure=mutual) as address:
    ca = f"grpc://{address}/a?ca={pem('ca.pem')}"
    spec = f"{ca}&cert={pem('client.pem')}&key={pem('client.key')}"
    assert texts(inference.resolve(spec).generate(asked)) == ["q0"]
    stranger = f"{ca}&cert={pem('stranger.pem')}&key={pem('stranger.key')}"
    for bad in (ca, stranger):
      with pytest.raises(inference.InferenceError, match="did not answer"):
        inference.resolve(bad, deadline=1).generate(asked)
  with pytest.raises(inference.SpecError, match="cert and key go together"):
    inference.resolve("grpc://h:1/a?cert=x")
  with pytest.raises(inference.InferenceError, match="No such file"):
    inference.resolve("grpc://h:1/a?ca=/no/such.pem")
