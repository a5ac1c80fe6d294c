"""The study page's server: the standard library's, threads, JSON, no framework."""

import hmac
import http.server
import json
import pathlib
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any

from absl import logging

from fmd_jax.trust.study import quiz
from fmd_jax.trust.study.assignments import Assignments, Refused
from fmd_jax.trust.study.folder import Study
from fmd_jax.trust.study.journal import Journal
from fmd_jax.trust.study.screens import Screens

TOKEN = "FMD_JAX_STUDY_TOKEN"  # in the environment of the server
MIN_SECONDS = 3.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BODY = 65_536  # bytes of a request
_YEAR = 31_536_000
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_FILES = {
  "/": ("study.html", "text/html; charset=utf-8"),
  "/study.css": ("study.css", "text/css; charset=utf-8"),
  "/icon.svg": ("icon.svg", "image/svg+xml"),
  "/study.js": ("study.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
  "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
  "script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
}
_LOST = "Your session is not known here: reload the page."


class StudyServer(http.server.ThreadingHTTPServer):
  """Serves one study until it is closed."""

  daemon_threads = True

  def __init__(
    self,
    study: Study,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = "",
    min_seconds: float = MIN_SECONDS,
    tell: Callable[[str], None] = logging.info,
  ):
    """Opens the journal and listens.

    Args:
      study: which is served.
      host: where to listen; beyond loopback only with a token.
      port: 0 takes a free one.
      token: that the link carries; "" for none.
      min_seconds: an answer given faster is asked about once more.
      tell: is given a line when an annotator comes, and as labels come in.

    Raises:
      ValueError: a public address without a token.
      RuntimeError: another process serves this study.
      OSError: the port is taken.
    """
    if host not in LOOPBACK and not token:
      raise ValueError(
        f"at {host} everybody in reach could open the study: set {TOKEN} in the "
        "environment to a secret that the link then carries, or listen at 127.0.0.1 "
        "and let others in by `ssh -L`"
      )
    if not re.fullmatch(r"[\w~.-]*", token, re.ASCII):
      raise ValueError(f"{TOKEN} can have letters, digits and -._~ only")
    if ":" in host:
      self.address_family = socket.AF_INET6
    self.study, self.token, self._tell = study, token, tell
    self._told, self._telling = -1, threading.Lock()
    # Of this study: cookies do not tell ports apart.
    self.cookie = "study_" + study.pseudonym("cookie")[1:9]
    self.pictures = {f"/images/{i.image}": study.images / i.image for i in study.items}
    examples = [*quiz.examples()]
    for round_ in range(quiz.ROUNDS - 1):
      examples += quiz.exercise(round_)
    self.examples = {f"/examples/{one.name}.jpg": one.picture for one in examples}
    self.files = {
      path: ((_TEMPLATES / name).read_bytes(), kind)
      for path, (name, kind) in _FILES.items()
    }
    self._journal = Journal(study.journal)
    try:
      self.assignments = Assignments(
        [item.item for item in study.items], study.annotations, self._journal
      )
      self.screens = Screens(study, self.assignments, min_seconds)
      self._listen(host, port)
    except BaseException:
      self._journal.close()
      raise
    self.loopback = host in LOOPBACK
    shown = f"[{host}]" if ":" in host else host
    self.url = f"http://{shown}:{self.server_address[1]}/"
    if token:
      self.url += "?" + urllib.parse.urlencode({"token": token})

  def _listen(self, host: str, port: int) -> None:
    try:
      super().__init__((host, port), Handler)
    except OSError as error:
      why = (
        f"cannot listen at {host}, port {port}: {error.strerror}; --port names another"
      )
      raise OSError(error.errno, why) from None

  def tell_progress(self) -> None:
    """A line when the number of labels has passed another hundredth."""
    labels, total, raters = self.assignments.progress()
    with self._telling:
      if labels * 100 // total > self._told:
        self._told = labels * 100 // total
        people = "annotator" if raters == 1 else "annotators"
        self._tell(f"{labels:,} of {total:,} labels, {raters} {people}")

  def server_close(self) -> None:
    super().server_close()
    self._journal.close()

  def handle_error(self, request, client_address) -> None:
    logging.debug("a request of %s broke off", client_address, exc_info=True)


class Handler(http.server.BaseHTTPRequestHandler):
  """One request."""

  server_version, sys_version = "study", ""
  timeout = 60
  server: StudyServer

  def log_message(self, format: str, *args: Any) -> None:
    logging.debug(format, *args)

  def do_GET(self) -> None:
    url = urllib.parse.urlsplit(self.path)
    if self._is_stranger(url):
      return
    own = self.server
    if url.path in own.files:
      self._send(HTTPStatus.OK, *own.files[url.path])
    elif url.path in own.pictures:
      self._send(HTTPStatus.OK, own.pictures[url.path].read_bytes(), "image/png")
    elif url.path in own.examples:
      self._send(HTTPStatus.OK, own.examples[url.path], "image/jpeg")
    else:
      self._json(HTTPStatus.NOT_FOUND, {"error": "There is no such page."})

  def do_POST(self) -> None:
    url = urllib.parse.urlsplit(self.path)
    body = self._body()
    if body is None or self._is_stranger(url):
      return
    try:
      self._answer(url.path, body)
    except Refused as error:
      self._json(HTTPStatus.CONFLICT, {"error": str(error)})
    except OSError as error:
      logging.error("an annotation could not be written: %s", error)
      why = "The answer could not be stored: please tell whoever runs this study."
      self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": why})

  def _answer(self, path: str, body: dict[str, Any]) -> None:
    screens, code = self.server.screens, self._cookies().get(self.server.cookie, "")
    if path == "/api/join":
      code, screen = screens.join()
      self._json(HTTPStatus.OK, screen, self._keep(self.server.cookie, code))
    elif path == "/api/return":
      code = re.sub(r"[^a-z0-9]", "", str(body.get("code")).lower())
      code = "-".join(code[at : at + 4] for at in range(0, len(code), 4))
      if not screens.knows(code):
        raise Refused("This code is not known in this study. Is there a slip in it?")
      self._json(
        HTTPStatus.OK, screens.screen(code), self._keep(self.server.cookie, code)
      )
    elif path == "/api/screen":
      self._json(HTTPStatus.OK, screens.screen(code))
    elif path not in ("/api/quiz", "/api/label", "/api/before"):
      self._json(HTTPStatus.NOT_FOUND, {"error": "There is no such page."})
    elif not screens.knows(code):
      self._json(HTTPStatus.UNAUTHORIZED, {"error": _LOST})
    elif path == "/api/quiz":
      self._json(HTTPStatus.OK, screens.answer_quiz(code, body))
    elif path == "/api/before":
      self._json(HTTPStatus.OK, screens.before(code, body))
    else:
      self._json(HTTPStatus.OK, screens.label(code, body))
      self.server.tell_progress()

  def _is_stranger(self, url: urllib.parse.SplitResult) -> bool:
    """Whether the request may not come in; it is answered then."""
    own, host = self.server, urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}")
    # Another site's name that leads here would let its scripts read along.
    if own.loopback and host.hostname not in LOOPBACK:
      self._json(HTTPStatus.FORBIDDEN, {"error": "This page is at 127.0.0.1 only."})
      return True
    if not own.token:
      return False
    (given,) = urllib.parse.parse_qs(url.query).get("token", [""])[-1:]
    if self.command == "GET" and url.path == "/" and self._is_token(given):
      # Out of the address line, where it would be seen and copied.
      headers = {"Location": "/", "Set-Cookie": self._keep(own.cookie + "_t", given)}
      self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", headers)
      return True
    if self._is_token(self._cookies().get(own.cookie + "_t", "")):
      return False
    self._json(HTTPStatus.FORBIDDEN, {"error": "Open the link you were sent, whole."})
    return True

  def _is_token(self, given: str) -> bool:
    return hmac.compare_digest(given.encode(), self.server.token.encode())

  def _cookies(self) -> dict[str, str]:
    try:
      found = SimpleCookie(self.headers.get("Cookie", ""))
    except CookieError:
      return {}
    return {name: morsel.value for name, morsel in found.items()}

  def _keep(self, name: str, value: str) -> str:
    return f"{name}={value}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Strict"

  def _body(self) -> dict[str, Any] | None:
    """The JSON that was sent; None, and an answer, when it is none of ours."""
    length = self.headers.get("Content-Length", "")
    # A form of another site cannot send this type.
    kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
    if not length.isdecimal() or int(length) > _BODY or kind != "application/json":
      self.close_connection = True
      self._json(HTTPStatus.BAD_REQUEST, {"error": "This is no JSON of this page."})
      return None
    content = self.rfile.read(int(length))
    try:
      body = json.loads(content)
    except (ValueError, RecursionError):
      body = None
    if not isinstance(body, dict):
      self._json(HTTPStatus.BAD_REQUEST, {"error": "This is no JSON of this page."})
      return None
    return body

  def _json(self, status: HTTPStatus, body: dict[str, Any], cookie: str = "") -> None:
    headers = {"Set-Cookie": cookie} if cookie else {}
    self._send(status, json.dumps(body).encode(), "application/json", headers)

  def _send(self, status: HTTPStatus, content: bytes, kind: str, headers=()) -> None:
    self.send_response(status)
    told = {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}
    for name, value in {**told, **dict(headers)}.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)
