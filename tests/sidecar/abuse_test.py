"""What must be refused is refused with the right status, and takes nothing down.

The long form: `python -m tests.bench.sidecar` makes 1 000 such calls.
"""

import concurrent.futures
import hashlib
import threading
import time

import pytest

from fmd_jax import inference
from fmd_jax.inference import Reply, Request, channel
from fmd_jax.sidecar import images, security
from tests.sidecar import abuse
from tests.sidecar.conftest import picture, wait_for


def test_each_bad_call_ends_with_its_status(running, script, monkeypatch):
  # Wrong: UNKNOWN for all, a bomb that is stored, a token that is not looked at.
  monkeypatch.setenv(channel.TOKEN, "secret")
  roles = {"judge": "oracle://", "answerer": script("echo")}
  with running(roles, secure=security.Security("secret")) as address:
    number = 2 * len(abuse.CASES) + 10
    assert abuse.run(address, number, "secret") == []
    model = inference.resolve(f"grpc://{address}/answerer")
    shown = picture(b"abc")
    (reply,) = model.generate([Request([], (shown,), {"question": "still there"})])
    assert reply.text.startswith("still there|")
    (told,) = inference.connect(f"grpc://{address}/answerer").status().values()
    # The call without an image is no fault; what never became a call is not counted.
    assert told.rejected > number / 2
    assert told.images == 1


def test_an_honest_client_without_the_token_is_told_so(running, script, monkeypatch):
  monkeypatch.delenv(channel.TOKEN, raising=False)
  secure = security.Security("secret")
  with running({"a": script("echo")}, secure=secure) as address:
    with pytest.raises(inference.InferenceError, match="UNAUTHENTICATED.*FMD_JAX_TOK"):
      inference.resolve(f"grpc://{address}/a").generate([Request([])])
    assert "secret" not in repr(secure)


@pytest.mark.parametrize(
  ("data", "says"),
  [
    (abuse.bomb(), "too many pixels"),
    (abuse.bomb(11_000, 11_000), "121|11000 x 11000"),
    (abuse.bomb(0, 5), "not an image"),
    (b"", "not an image"),
    (b"GIF89a", "not an image"),
    (b"<svg/>", "not an image"),
  ],
)
def test_what_is_no_picture_is_not_stored(data, says):
  store = images.ImageStore(1 << 20)
  with pytest.raises(ValueError, match=says):
    store.put(hashlib.sha256(data).hexdigest(), data)
  assert store.size() == (0, 0)


def test_a_full_queue_sends_callers_back_and_they_return(running, tmp_path):
  # Wrong: requests pile up in memory; or the client gives up at the first refusal.
  (tmp_path / "s.py").write_text(
    "import pathlib, time\n\ndef slow(request):\n"
    "  while not pathlib.Path(__file__).with_name('open').exists():\n"
    "    time.sleep(0.02)\n  return 'x'\n"
  )
  roles = {"a": f"scripted://{tmp_path}/s.py:slow"}
  batch = [Request([])] * 8
  with running(roles, max_queue=16) as address:

    def ask(_):
      return inference.resolve(f"grpc://{address}/a").generate(batch)

    def full():
      (told,) = inference.connect(f"grpc://{address}/a").status().values()
      return not isinstance(told, str) and told.rejected > 0

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      asked = [pool.submit(ask, i) for i in range(8)]
      try:
        wait_for(full)
      finally:
        (tmp_path / "open").touch()
      found = [future.result(120) for future in asked]
    assert all([reply.text for reply in replies] == ["x"] * 8 for replies in found)
    (told,) = inference.connect(f"grpc://{address}/a").status().values()
    assert told.rejected > 0
    (role,) = told.roles
    assert (role.queued, role.in_flight, role.requests) == (0, 0, 64)


def test_a_caller_that_leaves_ends_the_work(running, monkeypatch):
  # Wrong: the rest of its batch is computed (or paid for) for nobody.
  asked, left, ended = [], threading.Event(), threading.Event()

  class Slow:
    name, revision = "slow", ""

    def generate(self, requests):
      return [reply for _, reply in self.stream(requests)]

    def stream(self, requests):
      try:
        for index in range(len(requests)):
          if index:  # the caller has got the first one
            left.wait(60)
            time.sleep(0.05)
          asked.append(index)
          yield index, Reply("x")
      finally:
        ended.set()

  load = inference.load_engine
  monkeypatch.setattr(
    inference, "load_engine", lambda s: Slow() if s == "slow://" else load(s)
  )
  with running({"a": "slow://"}) as address:
    stream = inference.resolve(f"grpc://{address}/a").stream([Request([])] * 250)
    assert next(stream)[1].text == "x"
    stream.close()
    left.set()
    assert ended.wait(60)
    assert len(asked) < 250


def test_public_addresses_need_authentication():
  # Wrong: a sidecar that anybody in the network may use.
  for host in ("0.0.0.0", "10.0.0.1", "[::]"):
    with pytest.raises(ValueError, match="set FMD_JAX_TOKEN in the environment"):
      security.Security().check(host)
  security.Security(token="x").check("0.0.0.0")
  security.Security(certificate="c", key="k", client_ca="a").check("0.0.0.0")
  security.Security().check("127.0.0.1")
  with pytest.raises(ValueError, match="both a certificate and its key"):
    security.Security(certificate="c").check("127.0.0.1")
  with pytest.raises(ValueError, match="a client CA needs TLS"):
    security.Security(client_ca="a").check("127.0.0.1")
