"""Models played by a Python function or a table of replies, for tests and demos."""

import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fmd_jax.inference.protocol import Reply, Request, SpecError


class ScriptedEngine:
  """Calls one function per request, or per text to embed."""

  def __init__(self, function: Callable[[Any], Any], name: str, revision: str):
    self._function, self.name, self.revision = function, name, revision

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    return [self._reply(request) for request in requests]

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    rows = [np.asarray(self._function(text), np.float32) for text in texts]
    vectors = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)

  def _reply(self, request: Request) -> Reply:
    try:
      reply = self._function(request)
    # A script may fail in any way; that is one failed request.
    except Exception as error:
      return Reply("", error=f"{self.name} failed: {error!r}")
    if isinstance(reply, Reply):
      return reply
    if isinstance(reply, str):
      return Reply(reply)
    return Reply("", error=f"{self.name} gave {type(reply).__name__}, not text")


def load(target: str) -> ScriptedEngine:
  """Loads `file.py:function` or `file.json`.

  A function takes a `Request` and gives text or a `Reply` (to embed, it takes a
  text and gives a vector). A JSON file is
  `{"replies": {question: reply, …}, "default": reply}`; the default may be left
  out, and a reply that is an object is sent as JSON text.

  Raises:
    SpecError: no such file or function, or a file of another form.
  """
  path_text, _, name = target.partition(":")
  path = pathlib.Path(path_text)
  if not path.is_file():
    raise SpecError(f"scripted://{target}: there is no file {path}")
  revision = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
  if path.suffix == ".json" and not name:
    function = _table(target, path)
  elif path.suffix == ".py" and name:
    function = _function(target, path, name)
  else:
    raise SpecError(f"scripted://{target} is neither file.py:function nor file.json")
  label = f"scripted/{path.name}" + (f":{name}" if name else "")
  return ScriptedEngine(function, label, revision)


def _function(target: str, path: pathlib.Path, name: str) -> Callable[[Any], Any]:
  spec = importlib.util.spec_from_file_location(f"scripted_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise SpecError(f"scripted://{target}: the file fails: {error!r}") from error
  if not callable(getattr(module, name, None)):
    raise SpecError(f"scripted://{target}: the file has no function {name!r}")
  return getattr(module, name)


def _table(target: str, path: pathlib.Path) -> Callable[[Request], str | Reply]:
  try:
    table = json.loads(path.read_text())
  except ValueError as error:
    raise SpecError(f"scripted://{target}: not JSON: {error}") from error
  if (
    not isinstance(table, dict)
    or set(table) - {"replies", "default"}
    or not isinstance(table.get("replies"), dict)
  ):
    raise SpecError(
      f"scripted://{target}: a table is "
      '{"replies": {question: reply}, "default": reply}'
    )

  def reply(request: Request) -> str | Reply:
    question = request.fields.get("question", "")
    if question in table["replies"]:
      value = table["replies"][question]
    elif "default" in table:
      value = table["default"]
    else:
      return Reply("", error=f"no scripted reply to {question!r}")
    return value if isinstance(value, str) else json.dumps(value)

  return reply
