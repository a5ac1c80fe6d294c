"""What engines behind a web API share: calls at one time, patience, no key told."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

from fmd_jax.inference.protocol import InferenceError, Reply, Request, SpecError

CONCURRENCY = 16
ATTEMPTS = 6
TIMEOUT = 120.0
_LONGEST_WAIT = 120.0
# Nothing is gained by asking again: the account, the model or the address is wrong.
HOPELESS = (401, 402, 403, 404)
LATER = (408, 409, 425, 429)
_FORMATS = {
  b"\x89PNG\r\n\x1a\n": "image/png",
  b"\xff\xd8\xff": "image/jpeg",
  b"GIF8": "image/gif",
}


class TransientError(Exception):
  """A call that failed for now.

  Attributes:
    wait: seconds that the server asked to wait; None when it did not say.
    ends: whether a model that fails so to the last attempt can't be asked at all: the
      run stops then, rather than go on with nothing but unscored rows.
  """

  def __init__(self, reason: str, *, wait: float | None = None, ends: bool = False):
    super().__init__(reason)
    self.wait, self.ends = wait, ends


class ApiEngine:
  """A Generator that makes one call a request, several at a time.

  Args:
    ask: makes one call. It raises `TransientError` for what may pass, `InferenceError`
      for what ends the run (a refused key), and gives a Reply with an error for what
      concerns this request only.
    name: the model's, as records keep it.
    concurrency: calls at one time, by all callers together.
    attempts: how often a call is made that fails for now. A prompt has no effect on the
      model, so another attempt is always safe; it may cost.
    secret: taken out of every message.
    settings: what determines a reply beside name and request: address and options.
  """

  # The server need not let calls to it wait for each other.
  concurrent = True

  def __init__(
    self,
    ask: Callable[[Request], Reply],
    name: str,
    *,
    concurrency: int = CONCURRENCY,
    attempts: int = ATTEMPTS,
    secret: str = "",
    settings: str = "",
  ):
    import tenacity

    self._ask, self._secret = ask, secret
    self._pool = concurrent.futures.ThreadPoolExecutor(concurrency)
    backoff = tenacity.wait_random_exponential(multiplier=0.5, max=30)

    def wait(state) -> float:
      told = getattr(state.outcome.exception(), "wait", None)
      # What the server said, and more, lest all callers come back at once.
      return backoff(state) if told is None else told + min(backoff(state), 1.0)

    self._retrying = tenacity.Retrying(
      retry=tenacity.retry_if_exception_type(TransientError),
      stop=tenacity.stop_after_attempt(attempts),
      wait=wait,
      reraise=True,
    )
    self.name, self.revision, self.settings = name, "", settings

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    """Index and reply of each request, as they finish."""
    futures = {self._pool.submit(self._reply, r): i for i, r in enumerate(requests)}
    try:
      for done in concurrent.futures.as_completed(futures):
        yield futures[done], done.result()
    finally:
      # A caller that left, or an error that ends the run: nothing more is paid for.
      for future in futures:
        future.cancel()

  def _reply(self, request: Request) -> Reply:
    try:
      reply = self._retrying.copy()(self._ask, request)
      # An endpoint's reason may repeat what it was sent, and goes into records.
      return dataclasses.replace(reply, error=scrub(reply.error, self._secret))
    except TransientError as error:
      reason = scrub(str(error), self._secret)
      if error.ends:
        raise InferenceError(f"{self.name}: {reason}") from None
      return Reply("", error=reason)
    except InferenceError as error:
      raise InferenceError(scrub(f"{self.name}: {error}", self._secret)) from None


def scrub(text: str, secret: str) -> str:
  """A message without the key that a server may have echoed, and no longer than that
  of a gRPC status."""
  return (text.replace(secret, "***") if secret else text)[:1000]


def key_of(variable: str, needed: bool) -> str:
  """An API key from the environment, the only place where one is looked for.

  Raises:
    SpecError: it is needed and not there, or can't be one.
  """
  key = os.environ.get(variable, "").strip()
  if needed and not key:
    raise SpecError(f"no API key: set the environment variable {variable}")
  # No header takes it, and the error that says so shows it.
  if not (key.isascii() and key.isprintable()):
    raise SpecError(f"the API key in {variable} has characters that no key has")
  return key


def seconds(text: str | None) -> float | None:
  """A retry-after header; None for one that is absent or a date."""
  with contextlib.suppress(TypeError, ValueError):
    return min(max(float(text), 0.0), _LONGEST_WAIT)
  return None


def media_type(image: bytes) -> str:
  """Of an encoded image, by its first bytes.

  Raises:
    ValueError: of a format that web APIs do not take.
  """
  for start, name in _FORMATS.items():
    if image.startswith(start):
      return name
  if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
    return "image/webp"
  raise ValueError("the image is no PNG, JPEG, GIF or WebP")


def data_url(image: bytes) -> str:
  return f"data:{media_type(image)};base64,{base64.b64encode(image).decode()}"
