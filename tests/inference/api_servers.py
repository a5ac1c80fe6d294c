"""Loopback servers that speak OpenAI's and Gemini's protocols, faults included."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator


class Server:
  """What a loopback server was asked, and how it answers.

  `plan` is taken from the front, one entry a call: the name of a fault, or None for a
  good reply; when it is empty all replies are good. `answer` makes the text.
  """

  def __init__(self, answer: Callable[[dict], str]):
    self.answer, self.plan = answer, []
    self.bodies: list[dict] = []
    self.headers: list[dict] = []
    self.times: list[float] = []
    self.url = ""


@contextlib.contextmanager
def running(kind: str, answer: Callable[[dict], str]) -> Iterator[Server]:
  """A server of "openai" or "gemini" that answers with `answer(body)`."""
  state = Server(answer)
  lock = threading.Lock()

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
      pass

    def do_POST(self):
      length = int(self.headers["content-length"])
      body = json.loads(self.rfile.read(length))
      with lock:
        state.bodies.append({**body, "path": self.path})
        state.headers.append({k.lower(): v for k, v in self.headers.items()})
        state.times.append(time.monotonic())
        fault = state.plan.pop(0) if state.plan else None
      # A client that gave up closes the connection under us.
      with contextlib.suppress(ConnectionError):
        _SPEAK[kind](self, state, body, fault)

    def chunked(self, parts, whole=True):
      self.send_response(200)
      self.send_header("content-type", "text/event-stream")
      self.send_header("transfer-encoding", "chunked")
      self.end_headers()
      for part in parts:
        data = part.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()
      if whole:
        self.wfile.write(b"0\r\n\r\n")
      else:
        self.close_connection = True

    def status(self, code, error, **headers):
      data = error if isinstance(error, bytes) else json.dumps(error).encode()
      self.send_response(code)
      for name, value in headers.items():
        self.send_header(name.replace("_", "-"), value)
      self.send_header("content-type", "application/json")
      self.send_header("content-length", str(len(data)))
      self.end_headers()
      self.wfile.write(data)

  class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
      pass  # a client that gave up resets the connection

  server = Quiet(("127.0.0.1", 0), Handler)
  server.daemon_threads = True
  thread = threading.Thread(target=server.serve_forever, args=(0.05,))
  thread.start()
  path = "/v1" if kind == "openai" else ""
  state.url = f"http://127.0.0.1:{server.server_address[1]}{path}"
  try:
    yield state
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


def _openai(handler, state, body, fault):
  def error(message, code=None):
    return {"error": {"message": message, "type": "error", "code": code}}

  if fault == "429":
    return handler.status(429, error("slow down"), retry_after="1")
  if fault == "quota":
    return handler.status(429, error("no money", "insufficient_quota"))
  if fault == "500":
    return handler.status(500, b"<html>oops</html>")
  if fault == "401":
    key = handler.headers["authorization"].removeprefix("Bearer ")
    return handler.status(401, error(f"Incorrect API key provided: {key}"))
  if fault == "400":
    key = handler.headers["authorization"]
    return handler.status(400, error(f"this image is too large, {key}"))
  if fault == "slow":
    time.sleep(3)

  def chunk(**choice):
    choices = [{"index": 0, "delta": {}, "finish_reason": None, **choice}]
    data = {
      "id": "x", "object": "chat.completion.chunk", "created": 1,
      "model": body["model"], "choices": choices if choice else [],
    }  # fmt: skip
    if not choice:
      data["usage"] = {
        "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10
      }  # fmt: skip
    return f"data: {json.dumps(data)}\n\n"

  if fault == "malformed":
    return handler.chunked([chunk(delta={"content": "a"}), "data: {oh no\n\n"])
  if fault == "shapeless":
    return handler.chunked(["data: [1, 2]\n\n"])
  text = state.answer(body)
  half = len(text) // 2
  parts = [
    chunk(delta={"role": "assistant", "content": ""}),
    chunk(delta={"content": text[:half]}),
  ]
  if fault in ("cut", "ended"):
    return handler.chunked(parts, whole=fault == "ended")
  finish = {"filter": "content_filter", "length": "length"}.get(fault, "stop")
  parts += [
    chunk(delta={"content": text[half:]}),
    chunk(delta={}, finish_reason=finish),
    chunk(),
    "data: [DONE]\n\n",
  ]
  return handler.chunked(parts)


def _gemini(handler, state, body, fault):
  def error(code, message, status, *details):
    return {
      "error": {
        "code": code, "message": message, "status": status, "details": list(details)
      }
    }  # fmt: skip

  if fault == "429":
    retry = {
      "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"
    }  # fmt: skip
    return handler.status(429, error(429, "slow down", "RESOURCE_EXHAUSTED", retry))
  if fault == "500":
    return handler.status(500, error(500, "oops", "INTERNAL"))
  if fault == "401":
    key = handler.headers["x-goog-api-key"]
    reason = {"reason": "API_KEY_INVALID"}
    return handler.status(
      400, error(400, f"API key {key} not valid", "INVALID_ARGUMENT", reason)
    )
  if fault == "400":
    key = handler.headers["x-goog-api-key"]
    return handler.status(
      400, error(400, f"image is too large, {key}", "INVALID_ARGUMENT")
    )
  if fault == "slow":
    time.sleep(3)

  def chunk(text=None, finish=None, **rest):
    candidate = {"index": 0}
    if text is not None:
      candidate["content"] = {"role": "model", "parts": [{"text": text}]}
    if finish:
      candidate["finishReason"] = finish
    return f"data: {json.dumps({'candidates': [candidate], **rest})}\r\n\r\n"

  if fault == "malformed":
    return handler.chunked([chunk("a"), "data: {oh no\r\n\r\n"])
  if fault == "shapeless":
    return handler.chunked(['data: {"candidates": 3}\r\n\r\n'])
  if fault == "prompt":
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}}
    return handler.chunked([f"data: {json.dumps(blocked)}\r\n\r\n"])
  text = state.answer(body)
  half = len(text) // 2
  if fault in ("cut", "ended"):
    return handler.chunked([chunk(text[:half])], whole=fault == "ended")
  finish = {"filter": "SAFETY", "length": "MAX_TOKENS"}.get(fault, "STOP")
  usage = {
    "promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 1,
  }  # fmt: skip
  return handler.chunked(
    [chunk(text[:half]), chunk(text[half:], finish, usageMetadata=usage)]
  )


_SPEAK = {"openai": _openai, "gemini": _gemini}
