"""Models for runs that need no torch: an answerer that errs and an embedder."""

import hashlib
import json
import time
import zlib

from fmd_jax.inference.engines.oracle import OracleEngine

ANSWERS = ("yes", "no", "red", "blue", "circle", "two", "left")


def answer(request):
  """One of a few answers, by the question's text."""
  return ANSWERS[zlib.crc32(request.fields["question"].encode()) % len(ANSWERS)]


def refuse(request):
  """A judge to whom no question is valid."""
  flags = dict.fromkeys(("grammatical", "atomic", "grounded", "objective"), False)
  said = {
    name: {"why": "so", "ok": ok} for name, ok in (flags | {"correct": True}).items()
  }
  return json.dumps(said)


def embed(text):
  """A direction of the text's own."""
  digest = hashlib.sha256(text.encode()).digest()
  vector = [byte - 127.5 for byte in digest[:8]]
  norm = sum(x * x for x in vector) ** 0.5
  return [x / norm for x in vector]


def slow_verdict(request):
  """The oracle's, of a third of the images after a while."""
  if zlib.crc32(request.images[0]) % 3 == 0:
    time.sleep(2)
  return OracleEngine().generate([request])[0].text
