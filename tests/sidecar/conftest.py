"""Sidecars over loopback, in threads of the test's own process."""

import contextlib
import threading
import time

import pytest

from fmd_jax.sidecar import server


@contextlib.contextmanager
def running(roles: dict[str, str], port: int = 0, **kwargs):
  """A served sidecar; yields its address."""
  stop, ready, outcome = threading.Event(), threading.Event(), {}

  def work():
    try:
      server.serve(
        roles,
        host="127.0.0.1",
        port=port,
        on_ready=lambda address: outcome.update(address=address) or ready.set(),
        stop=stop,
        **kwargs,
      )
    except Exception as error:
      outcome["error"] = error
      ready.set()

  thread = threading.Thread(target=work)
  thread.start()
  try:
    assert ready.wait(120)
    if "error" in outcome:
      raise outcome["error"]
    yield outcome["address"]
  finally:
    stop.set()
    thread.join(30)


def wait_for(condition, seconds: float = 120.0):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "waited in vain"
    time.sleep(0.02)


def picture(content: bytes) -> bytes:
  """A picture (PPM, one row) of these bytes."""
  content += bytes(-len(content) % 3)
  return b"P6 %d 1 255\n" % (len(content) // 3) + content


@pytest.fixture(name="picture")
def picture_fixture():
  return picture


@pytest.fixture(name="running")
def running_fixture():
  return running


SCRIPT = """
import hashlib, pathlib, time
from fmd_jax.inference import Reply

def echo(request):
  question = request.fields["question"]
  if question == "bad":
    raise ValueError("bad question")
  seen = ",".join(hashlib.sha256(i).hexdigest()[:8] for i in request.images)
  return f"{question}|{seen}|{request.max_tokens}|{request.temperature}|{request.seed}"

def shout(request):
  return Reply(request.fields["question"].upper(), finish="length")

def slow(request):
  folder = pathlib.Path(__file__).parent
  (folder / "called").touch()
  if (folder / "slow").exists():
    time.sleep(600)
  return echo(request)

def embed(text):
  return [len(text), 1.0, 0.0]

def echo_length(text):
  return [len(text), 0.0, 0.0]
"""


@pytest.fixture
def script(tmp_path):
  """scripted:// spec of a function of SCRIPT, by name."""
  (tmp_path / "script.py").write_text(SCRIPT)
  return lambda name: f"scripted://{tmp_path / 'script.py'}:{name}"
