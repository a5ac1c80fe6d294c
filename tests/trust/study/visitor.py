"""An annotator without a browser: cookies and JSON over one connection."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.parse

from fmd_jax.trust import study as kit
from fmd_jax.trust.study import quiz
from tests.runs import ROOT


class Visitor:
  """Talks to a study page; `heard` is every byte it was sent."""

  def __init__(self, url: str):
    self.place = urllib.parse.urlsplit(url)
    self.cookies, self.heard = {}, []

  def ask(self, method, path, body=None, headers=()):
    """(status, headers, content)."""
    connection = http.client.HTTPConnection(
      self.place.hostname, self.place.port, timeout=60
    )
    try:
      cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
      told = {"Cookie": cookie} if cookie else {}
      content = None
      if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told["Content-Type"] = "application/json"
      connection.request(method, path, content, {**told, **dict(headers)})
      reply = connection.getresponse()
      heard = reply.read()
    finally:
      connection.close()
    for name, value in reply.getheaders():
      if name == "Set-Cookie":
        key, _, rest = value.partition("=")
        self.cookies[key] = rest.partition(";")[0]
    self.heard += [str(reply.getheaders()).encode(), heard]
    return reply.status, dict(reply.getheaders()), heard

  def post(self, path, body=()):
    status, _, content = self.ask("POST", path, dict(body))
    return status, json.loads(content)

  def enter(self):
    """Joins and passes the exercise; gives the first screen."""
    _, screen = self.post("/api/join")
    while screen["screen"] == "quiz":
      known = {one.name: one for one in quiz.exercise(screen["round"])}
      _, told = self.post(
        "/api/quiz", {"item": screen["item"], **right_answer(known[screen["item"]])}
      )
      screen = told["next"]
    return screen

  def label(self, screen, body, seconds=5.0):
    return self.post("/api/label", {"item": screen["item"], "seconds": seconds, **body})


def right_answer(one):
  if one.valid:
    return {"valid": 1, "correct": int(one.correct)}
  return {"valid": 0, "criterion": one.criterion}


@contextlib.contextmanager
def serving(study, **options):
  """A server in this process."""
  server = kit.StudyServer(study, **options)
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    thread.join(60)
    server.server_close()


@contextlib.contextmanager
def process(study, port=0, min_seconds=3.0):
  """(process, address) of `launch.human_study serve`; killed at the end."""
  command = [sys.executable, "-m", "launch.human_study", "serve", "--workdir=."]
  command += [
    f"--study={study.folder}",
    f"--port={port}",
    f"--min_seconds={min_seconds}",
  ]
  started = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  try:
    line = ""
    while "The study is at" not in line:
      line = started.stdout.readline()
      assert line, "the server ended before it said where it is"
    yield started, line.split(" at ")[1].split()[0]
  finally:
    started.kill()
    started.wait()
    started.stdout.close()
