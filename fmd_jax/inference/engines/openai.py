"""Any endpoint that speaks OpenAI's chat completions: vLLM, TGI, LiteLLM, OpenAI."""

import urllib.parse
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

_OPENAI = "https://api.openai.com/v1"
# The parameters that an endpoint may refuse, for `omit`.
OPTIONAL = ("temperature", "seed", "stream_options", "response_format")


def connect(
  model: str,
  base_url: str = "",
  *,
  key_env: str = "OPENAI_API_KEY",
  concurrency: int = api.CONCURRENCY,
  attempts: int = api.ATTEMPTS,
  timeout: float = api.TIMEOUT,
  omit: Sequence[str] = (),
  limit: str = "",
  thinks: bool = False,
) -> api.ApiEngine:
  """An engine that asks `model` at `base_url`.

  Args:
    model: as the endpoint calls it.
    base_url: up to and including /v1; "" is OpenAI's own.
    key_env: the environment variable with the key; an endpoint other than OpenAI's may
      need none.
    concurrency: calls at one time.
    attempts: of a call that fails for now.
    timeout: seconds to connect, and between two pieces of a reply.
    omit: optional parameters that the endpoint refuses.
    limit: what the endpoint calls the longest reply; "" for max_completion_tokens at
      OpenAI, max_tokens elsewhere.
    thinks: the chat template opens `<think>` itself, so that replies begin inside it.

  Raises:
    SpecError: a bad address or option, or no key.
  """
  try:
    import openai
  except ImportError as error:
    raise ImportError("openai:// needs its client: pip install openai") from error
  _check(base_url, omit)
  own = not base_url
  key = api.key_of(key_env, needed=own or key_env != "OPENAI_API_KEY")
  client = openai.OpenAI(
    # Without a key the client does not start, and a local endpoint reads none.
    api_key=key or "none",
    base_url=base_url or _OPENAI,
    max_retries=0,
    timeout=timeout,
    # An organisation or project in the environment is OpenAI's business only.
    **({} if own else {"organization": "", "project": ""}),
  )
  limit = limit or ("max_completion_tokens" if own else "max_tokens")

  def ask(request: Request) -> Reply:
    try:
      body = _body(request, model, limit, omit)
    except ValueError as error:
      return Reply("", error=str(error))
    try:
      with client.chat.completions.create(**body) as stream:
        return _collect(stream, "<think>\n" if thinks else "")
    except openai.APIStatusError as error:
      return _refused(error)
    except openai.APITimeoutError:
      raise api.TransientError(f"no answer within {timeout:.0f} s") from None
    except openai.APIError as error:
      raise api.TransientError(f"{base_url or _OPENAI}: {error}", ends=True) from None
    except _broken() as error:
      raise api.TransientError(f"the reply broke off: {error!r}") from None

  return api.ApiEngine(
    ask,
    model,
    concurrency=concurrency,
    attempts=attempts,
    secret=key,
    settings=f"{base_url} {sorted(omit)} {thinks}",
  )


def _check(base_url: str, omit: Sequence[str]) -> None:
  url = urllib.parse.urlsplit(base_url)
  if base_url and (url.scheme not in ("http", "https") or not url.hostname):
    raise SpecError("openai:// takes model@http://host:port/v1, or a model alone")
  if url.username or url.password:
    raise SpecError("openai://: no user or password in the address; see ?key_env=")
  unknown = set(omit) - set(OPTIONAL)
  if unknown:
    raise SpecError(
      f"openai://: omit is of {', '.join(OPTIONAL)}, not {sorted(unknown)}"
    )


def _body(
  request: Request, model: str, limit: str, omit: Sequence[str]
) -> dict[str, Any]:
  body = {
    "model": model,
    "messages": _messages(request),
    "stream": True,
    # For what the reply cost.
    "stream_options": {"include_usage": True},
    "temperature": request.temperature,
    "seed": draw_seed(request),
    limit: request.max_tokens,
  }
  if request.schema is not None:
    schema = {"name": "reply", "schema": dict(request.schema), "strict": True}
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
  return {key: value for key, value in body.items() if key not in omit}


def _messages(request: Request) -> list[dict]:
  """The messages with each image slot filled."""
  images = iter(request.images)
  out = []
  for message in chat.without_control_tokens(request.messages):
    content = message["content"]
    if not isinstance(content, str):
      content = [
        {"type": "image_url", "image_url": {"url": api.data_url(_next(images))}}
        if part["type"] == "image"
        else part
        for part in content
      ]
    out.append({**message, "content": content})
  if next(images, None) is not None:
    raise ValueError("the request has more images than its prompt has slots")
  return out


def _next(images) -> bytes:
  image = next(images, None)
  if image is None:
    raise ValueError("the prompt has more image slots than the request has images")
  return image


def _collect(stream: Any, start: str) -> Reply:
  """The whole reply of a stream of chunks."""
  text, refusal, finish, usage = [start], [], None, None
  for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices or ():
      text.append((choice.delta and choice.delta.content) or "")
      refusal.append((choice.delta and choice.delta.refusal) or "")
      finish = choice.finish_reason or finish
  if finish is None:
    raise api.TransientError("the reply broke off before its end")
  counts = {
    "prompt_tokens": usage.prompt_tokens if usage else 0,
    "tokens": usage.completion_tokens if usage else 0,
  }
  if finish == "content_filter":
    return Reply("", error="blocked by the endpoint's content filter", **counts)
  if any(refusal):
    return Reply("", error=f"refused: {''.join(refusal)[:200]}", **counts)
  finish = "length" if finish == "length" else "stop"
  return Reply("".join(text), finish=finish, **counts)


def _refused(error: Any) -> Reply:
  code, reason = error.status_code, f"HTTP {error.status_code}: {error.message}"
  headers = error.response.headers
  if code in api.HOPELESS or getattr(error, "code", None) == "insufficient_quota":
    raise InferenceError(reason)
  if code in api.LATER or code >= 500:
    wait = api.seconds(headers.get("retry-after"))
    raise api.TransientError(reason, wait=wait, ends=code == 429)
  return Reply("", error=reason[:1000])


def _broken() -> tuple[type[Exception], ...]:
  """What reading a stream raises when it ends early or is no JSON."""
  import httpx2

  return (
    httpx2.HTTPError,
    httpx2.StreamError,
    ValueError,
    TypeError,
    AttributeError,
  )
