"""Replies kept on disk, so that a repeated or resumed run never pays for one twice."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from fmd_jax.inference import Reply, Request, stream

# Raised when a key or a value changes its meaning.
_VERSION = 1


def open_folder(folder: str | os.PathLike[str], gigabytes: float) -> Any:
  """A cache in a folder that several processes may share; the oldest replies leave."""
  try:
    import diskcache
  except ImportError as error:
    raise ImportError("the reply cache needs diskcache: pip install diskcache") from (
      error
    )
  return diskcache.Cache(
    str(folder), size_limit=int(gigabytes * 2**30), disk=diskcache.JSONDisk
  )


def key(role: str, model: Any, request: Request) -> str:
  """A hash of all that determines a reply.

  The seed does where the reply is sampled, and then the number of the sample too.
  """
  drawn = (request.temperature, request.seed, request.sample)
  parts = [
    _VERSION,
    role,
    model.name,
    model.revision,
    getattr(model, "settings", ""),
    request.messages,
    dict(request.fields),
    [hashlib.sha256(image).hexdigest() for image in request.images],
    request.max_tokens,
    drawn if request.temperature else 0,
    request.schema and dict(request.schema),
  ]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class CachedGenerator:
  """A Generator that asks its engine only what the cache does not hold.

  A reply with an error is not kept. Replies of an engine that answers whole batches
  are kept together once the batch is done: one that was cut off is asked again whole,
  so that the batch, and with it the last digits of its arithmetic, is the same again.
  """

  def __init__(self, model: Any, role: str, kept: Any):
    self._model, self._role, self._kept = model, role, kept
    self.name, self.revision = model.name, model.revision

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    keys = [key(self._role, self._model, request) for request in requests]
    missing = []
    for index, name in enumerate(keys):
      found = self._kept.get(name)
      if found is None:
        missing.append(index)
      else:
        yield index, Reply(**found, cached=True)
    if not missing:
      return
    at_once = getattr(self._model, "concurrent", False)
    done = []
    for place, reply in stream(self._model, [requests[index] for index in missing]):
      index = missing[place]
      if not reply.error:
        if at_once:
          self._keep([(keys[index], reply)])
        else:
          done.append((keys[index], reply))
      yield index, reply
    if done:
      self._keep(done)

  def _keep(self, replies: list[tuple[str, Reply]]) -> None:
    with self._kept.transact():
      for name, reply in replies:
        self._kept.set(
          name,
          {
            "text": reply.text,
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "tokens": reply.tokens,
          },
        )
