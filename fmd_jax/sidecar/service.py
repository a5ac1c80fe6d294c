"""The calls of sidecar.proto, and what each of them may ask for at most."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from absl import logging

import fmd_jax
from fmd_jax import inference
from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.inference import sidecar_pb2_grpc as rpc
from fmd_jax.inference import wire
from fmd_jax.sidecar import cache, images
from fmd_jax.sidecar.worker import MAX_QUEUE, Counts, QueueFullError, Worker

MAX_BATCH = 1024  # requests of one call
MAX_TEXTS = 65_536  # of one call to embed
_PUSHBACK_MS = 500
_CHEAP = ("oracle", "scripted", "minilm")


class Servicer(rpc.SidecarServicer):
  """Answers for the engines, which `load` fills in.

  Args:
    capacity: bytes of uploaded images to keep.
    max_queue: requests that may wait for one engine.
    kept: the reply cache, from `cache.open_folder`; None keeps none.
    on_dead: is told of an engine that will never answer again (`dead`).
  """

  def __init__(
    self,
    capacity: int,
    max_queue: int = MAX_QUEUE,
    kept: Any = None,
    on_dead: Callable[[str], None] = logging.error,
  ):
    self._on_dead = on_dead
    self._images = images.ImageStore(capacity)
    self._max_queue, self._kept = max_queue, kept
    self._workers: dict[str, Worker] | None = None
    self._models: dict[str, Any] = {}
    self._counts: dict[str, Counts] = {}
    self._begun, self._rejected = time.monotonic(), 0

  def load(self, roles: Mapping[str, str]) -> None:
    """Loads one engine per different spec; roles of one spec share it.

    Raises:
      inference.SpecError: a spec that cannot be resolved, naming its role.
    """
    workers: dict[str, Worker] = {}
    for role, spec in roles.items():
      if spec in workers:
        continue
      start = time.monotonic()
      try:
        if inference.is_remote(spec):
          raise inference.SpecError(f"{spec!r}: a sidecar does not serve a sidecar")
        workers[spec] = Worker(spec, self._max_queue)
      except Exception as error:
        known = isinstance(error, inference.SpecError | ImportError)
        reason = str(error) if known else repr(error)
        raise inference.SpecError(f"role {role}: {reason}") from error
      logging.info("loaded %s in %.1f s", spec, time.monotonic() - start)
    for role, spec in roles.items():
      model = workers[spec].model
      # What costs less than reading the disk is not kept.
      dear = spec.partition("://")[0] not in _CHEAP and hasattr(model, "generate")
      if self._kept is not None and dear:
        model = cache.CachedGenerator(model, role, self._kept)
      self._models[role], self._counts[role] = model, Counts()
    self._workers = {role: workers[spec] for role, spec in roles.items()}

  def close(self) -> None:
    """Ends the engines."""
    for worker in set((self._workers or {}).values()):
      worker.close()

  def reject(self) -> None:
    """Counts a call that was refused."""
    self._rejected += 1

  def Describe(self, request, context):
    return pb.DescribeResponse(
      version=fmd_jax.__version__,
      roles=[
        pb.RoleInfo(
          role=role,
          name=worker.model.name,
          revision=worker.model.revision,
          generates=hasattr(worker.model, "generate"),
          embeds=hasattr(worker.model, "embed"),
        )
        for role, worker in self._loaded(context).items()
      ],
    )

  def Generate(self, request, context):
    worker = self._worker(request.role, "generate", context)
    if len(request.requests) > MAX_BATCH:
      self._refuse(context, f"{len(request.requests)} requests; at most {MAX_BATCH}")
    found, missing = self._images.get(
      digest for one in request.requests for digest in one.images
    )
    if missing:
      # Only some of them: a status has to fit in 8 KiB. HasImages tells all.
      context.abort(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"{len(missing)} images are not stored: {' '.join(missing[:32])}",
      )
    try:
      requests = [wire.request_from_proto(one, found) for one in request.requests]
    except ValueError as error:
      self._refuse(context, str(error)[:1000])
    model, counts = self._models[request.role], self._counts[request.role]
    try:
      for ready in worker.stream(model, requests, counts, context.is_active):
        yield pb.GenerateResponse(
          replies=[wire.reply_to_proto(index, reply) for index, reply in ready],
          name=model.name,
          revision=model.revision,
        )
    except QueueFullError as error:
      self.reject()
      context.set_trailing_metadata((("grpc-retry-pushback-ms", str(_PUSHBACK_MS)),))
      context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the queue is full: {error}")
    except Exception as error:
      self._failed(worker.model, error, context)

  def Embed(self, request, context):
    worker = self._worker(request.role, "embed", context)
    if len(request.texts) > MAX_TEXTS:
      self._refuse(context, f"{len(request.texts)} texts; at most {MAX_TEXTS}")
    try:
      vectors = worker.embed(list(request.texts), context.is_active)
    except Exception as error:
      self._failed(worker.model, error, context)
    if vectors is None:
      context.abort(grpc.StatusCode.CANCELLED, "the caller had left")
    return pb.EmbedResponse(
      **wire.vectors_to_proto(vectors),
      name=worker.model.name,
      revision=worker.model.revision,
    )

  def HasImages(self, request, context):
    return pb.HasImagesResponse(missing=self._images.get(request.sha256)[1])

  def PutImages(self, request_iterator: Iterator[pb.ImageChunk], context):
    stored, parts, size, digest = 0, [], 0, None
    for chunk in request_iterator:
      if digest not in (None, chunk.sha256):
        break
      digest = chunk.sha256
      parts.append(chunk.data)
      size += len(chunk.data)
      if size > self._images.largest:
        self._refuse(
          context,
          f"image {digest[:12]}… has more bytes than the store takes "
          f"({self._images.largest})",
        )
      if chunk.last:
        try:
          self._images.put(digest, b"".join(parts))
        except ValueError as error:
          self._refuse(context, str(error)[:1000])
        stored, parts, size, digest = stored + 1, [], 0, None
    if digest is not None:
      self._refuse(context, f"image {digest[:12]}… was not finished")
    return pb.PutImagesResponse(stored=stored)

  def Status(self, request, context):
    number, size = self._images.size()
    return pb.StatusResponse(
      version=fmd_jax.__version__,
      uptime=time.monotonic() - self._begun,
      roles=[
        pb.RoleStatus(
          role=role,
          name=worker.model.name,
          revision=worker.model.revision,
          queued=counts.queued,
          in_flight=counts.in_flight,
          requests=counts.requests,
          errors=counts.errors,
          cache_hits=counts.cache_hits,
          tokens=counts.tokens,
          tokens_per_second=counts.rate(),
        )
        for role, worker in self._loaded(context).items()
        for counts in (self._counts[role],)
      ],
      images=number,
      image_bytes=size,
      rejected=self._rejected,
    )

  def _loaded(self, context) -> dict[str, Worker]:
    if self._workers is None:
      context.abort(grpc.StatusCode.UNAVAILABLE, "the models are being loaded")
    return self._workers

  def _worker(self, role: str, method: str, context) -> Worker:
    workers = self._loaded(context)
    if role not in workers:
      self._refuse(
        context,
        f"no role {role[:100]!r}; this sidecar has {', '.join(sorted(workers))}",
      )
    if not hasattr(workers[role].model, method):
      self._refuse(context, f"role {role!r} does not {method}")
    return workers[role]

  def _refuse(self, context, reason: str) -> None:
    self.reject()
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)

  def _failed(self, model: Any, error: Exception, context) -> None:
    # `abort` itself raises a plain Exception; a caller that left has no use for one.
    if not context.is_active() or context.code() is not None:
      raise error
    logging.error("%s failed: %r", model.name, error, exc_info=error)
    if getattr(model, "dead", False):
      # As one that was killed: another sidecar does its work, or this one's successor.
      self._on_dead(f"{model.name} has ended: {error!r}")
      context.abort(grpc.StatusCode.UNAVAILABLE, f"{model.name} has ended")
    context.abort(grpc.StatusCode.INTERNAL, f"{model.name}: {error!r}"[:2000])
