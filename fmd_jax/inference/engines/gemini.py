"""Gemini models, by Google's own client."""

from collections.abc import Sequence
from typing import Any

from fmd_jax.inference.engines import api, chat
from fmd_jax.inference.protocol import (
  InferenceError,
  Reply,
  Request,
  SpecError,
  draw_seed,
)

OPTIONAL = ("temperature", "seed", "schema")


def connect(
  model: str,
  base_url: str = "",
  *,
  key_env: str = "GEMINI_API_KEY",
  concurrency: int = api.CONCURRENCY,
  attempts: int = api.ATTEMPTS,
  timeout: float = api.TIMEOUT,
  omit: Sequence[str] = (),
) -> api.ApiEngine:
  """An engine that asks a Gemini model.

  Args:
    model: "gemini-2.5-pro" and the like.
    base_url: of another server that speaks the API; "" is Google's.
    key_env: the environment variable with the key.
    concurrency: calls at one time.
    attempts: of a call that fails for now.
    timeout: seconds between two pieces of a reply.
    omit: optional parameters to leave out.

  Raises:
    SpecError: no key, or a bad option.
  """
  try:
    import httpx2
    from google import genai
    from google.genai import errors, types
  except ImportError as error:
    raise ImportError("gemini:// needs its client: pip install google-genai") from error
  unknown = set(omit) - set(OPTIONAL)
  if unknown:
    raise SpecError(
      f"gemini://: omit is of {', '.join(OPTIONAL)}, not {sorted(unknown)}"
    )
  key = api.key_of(key_env, needed=True)
  client = genai.Client(
    api_key=key,
    vertexai=False,
    http_options=types.HttpOptions(
      base_url=base_url or None,
      timeout=int(timeout * 1000),
      retry_options=types.HttpRetryOptions(attempts=1),
    ),
  )

  def ask(request: Request) -> Reply:
    try:
      contents, config = _body(request, types, omit)
    except ValueError as error:
      return Reply("", error=str(error))
    try:
      chunks = client.models.generate_content_stream(
        model=model, contents=contents, config=config
      )
      return _collect(chunks)
    except errors.APIError as error:
      return _refused(error)
    except httpx2.TimeoutException:
      raise api.TransientError(f"no answer within {timeout:.0f} s") from None
    except httpx2.ConnectError as error:
      raise api.TransientError(f"no connection: {error}", ends=True) from None
    # The client stumbles in many ways over what it cannot read.
    except (
      httpx2.HTTPError,
      httpx2.StreamError,
      ValueError,
      TypeError,
      AttributeError,
      KeyError,
    ) as error:
      raise api.TransientError(f"the reply broke off: {error!r}") from None

  return api.ApiEngine(
    ask,
    model,
    concurrency=concurrency,
    attempts=attempts,
    secret=key,
    settings=f"{base_url} {sorted(omit)}",
  )


def _body(request: Request, types: Any, omit: Sequence[str]) -> tuple[list, Any]:
  """Contents and config; system messages become the system instruction."""
  images, system, contents = list(request.images), [], []
  for message in chat.without_control_tokens(request.messages):
    content = message["content"]
    if isinstance(content, str):
      content = [{"type": "text", "text": content}]
    parts = []
    for part in content:
      if part["type"] == "text":
        parts.append(types.Part.from_text(text=part["text"]))
      elif not images:
        raise ValueError("the prompt has more image slots than the request has images")
      else:
        image = images.pop(0)
        kind = api.media_type(image)
        parts.append(types.Part.from_bytes(data=image, mime_type=kind))
    if message["role"] == "system":
      system += parts
    else:
      role = "model" if message["role"] == "assistant" else "user"
      contents.append(types.Content(role=role, parts=parts))
  if images:
    raise ValueError("the request has more images than its prompt has slots")
  options = {"temperature": request.temperature, "seed": draw_seed(request)}
  if request.schema is not None:
    options["schema"] = dict(request.schema)
  options = {key: value for key, value in options.items() if key not in omit}
  if "schema" in options:
    options["response_json_schema"] = options.pop("schema")
    options["response_mime_type"] = "application/json"
  config = types.GenerateContentConfig(
    system_instruction=system or None,
    max_output_tokens=request.max_tokens,
    **options,
  )
  return contents, config


def _collect(chunks: Any) -> Reply:
  text, finish, usage, blocked = [], None, None, None
  for chunk in chunks:
    usage = chunk.usage_metadata or usage
    feedback = chunk.prompt_feedback
    blocked = (feedback and feedback.block_reason) or blocked
    for candidate in (chunk.candidates or ())[:1]:
      finish = candidate.finish_reason or finish
      for part in (candidate.content and candidate.content.parts) or ():
        if part.text and not part.thought:
          text.append(part.text)
  counts = {
    "prompt_tokens": (usage and usage.prompt_token_count) or 0,
    # Thoughts are paid for like the rest.
    "tokens": ((usage and usage.candidates_token_count) or 0)
    + ((usage and usage.thoughts_token_count) or 0),
  }
  if blocked:
    return Reply("", error=f"the prompt was blocked: {blocked.value}", **counts)
  if finish is None:
    raise api.TransientError("the reply broke off before its end")
  if finish.value not in ("STOP", "MAX_TOKENS"):
    return Reply("", error=f"the reply was blocked: {finish.value}", **counts)
  ended = "length" if finish.value == "MAX_TOKENS" else "stop"
  return Reply("".join(text), finish=ended, **counts)


def _refused(error: Any) -> Reply:
  code = error.code if isinstance(error.code, int) else 500
  reason = f"HTTP {code}: {error.message or error.status}"
  # Google answers a bad key with 400.
  if code in api.HOPELESS or "API_KEY_INVALID" in str(error.details):
    raise InferenceError(reason)
  if code in api.LATER or code >= 500:
    raise api.TransientError(reason, wait=_wait(error), ends=code == 429)
  return Reply("", error=reason[:1000])


def _wait(error: Any) -> float | None:
  """Seconds to wait: the header, or the RetryInfo of the error."""
  headers = getattr(error.response, "headers", None) or {}
  told = api.seconds(headers.get("retry-after"))
  if told is None and isinstance(error.details, dict):
    body = error.details.get("error", error.details)
    for detail in body.get("details", ()) if isinstance(body, dict) else ():
      told = api.seconds(str(detail.get("retryDelay", "")).removesuffix("s")) or told
  return told
