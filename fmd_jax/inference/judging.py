"""What a judge is asked and the grammar of its verdict, whichever role judges.

A verdict is one JSON object, and nothing after it:
{"grammatical": {"ok": true, "why": "…"}, "atomic": …, "grounded": …,
"objective": …, "correct": …}. Reasoning before `</think>`, and plain text before
the object, is dropped. Anything else is not a verdict: nobody guesses.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from fmd_jax import prompts
from fmd_jax.inference.protocol import (
  Generator,
  Reply,
  Request,
  generate_distinct,
  identity,
)
from fmd_jax.types import CRITERIA, Answer, ImageExample, Question, Verdict

_KEYS = (*CRITERIA, "correct")
_RETRY_TEMPERATURE = 0.7


def judge(
  role: str,
  generator: Generator,
  items: Sequence[tuple[ImageExample, Question, Answer]],
  *,
  retries: int = 1,
  max_tokens: int = 512,
  temperature: float = 0.0,
  seed: int = 0,
) -> list[Verdict]:
  """Asks a judge about questions and answers.

  A question that is unparsed, or has no answer, is never sent. A reply outside the
  grammar is asked for again with another seed, sampled; then it is "unscored".

  Args:
    role: whose prompt: "verifier" or "evaluator".
    generator: the judge.
    items: image, question and answer, N of them.
    retries: how often a reply outside the grammar is asked for again.
    max_tokens: the longest reply.
    temperature: of the first attempt.
    seed: of the first attempt; attempt i has seed + i.

  Returns:
    N verdicts, in order: status "ok", "unparsed" (the question was) or "unscored".
  """
  model = identity(generator)
  verdicts: list[Verdict | None] = [None] * len(items)
  for i, (_, question, answer) in enumerate(items):
    if question.status != "ok":
      verdicts[i] = Verdict("unparsed", rationale="no question", model=model)
    elif answer.status != "ok":
      reason = f"no answer: {answer.error or answer.status}"
      verdicts[i] = Verdict("unscored", rationale=reason, model=model)
  pending = [i for i, verdict in enumerate(verdicts) if verdict is None]
  for attempt in range(retries + 1):
    if not pending:
      break
    heat = temperature if attempt == 0 else max(temperature, _RETRY_TEMPERATURE)
    requests = [
      _request(role, items[i], max_tokens, heat, seed + attempt) for i in pending
    ]
    replies = generate_distinct(generator, requests)
    for i, reply in zip(pending, replies, strict=True):
      verdicts[i] = dataclasses.replace(_verdict(reply), model=model)
    pending = [
      i
      for i, reply in zip(pending, replies, strict=True)
      if verdicts[i].status != "ok" and not reply.error
    ]
  return verdicts


def parse(text: str) -> dict[str, tuple[bool, str]]:
  """Reads a verdict: criterion -> (ok, why), in the order of the grammar.

  Raises:
    ValueError: the text is not a verdict; the message says why.
  """
  found = read_object(text)
  if set(found) != set(_KEYS):
    raise ValueError(f"its keys are {sorted(found)}")
  out = {}
  for key in _KEYS:
    entry = found[key]
    if not isinstance(entry, dict) or set(entry) != {"ok", "why"}:
      raise ValueError(f"{key} is not an object of ok and why")
    if not isinstance(entry["ok"], bool) or not isinstance(entry["why"], str):
      raise ValueError(f"{key} is not a boolean with a text")
    out[key] = (entry["ok"], entry["why"])
  return out


def read_object(text: str) -> dict[str, Any]:
  """Reads the JSON object that ends a reply; reasoning before it is dropped.

  Raises:
    ValueError: there is none, or more follows it.
  """
  _, thought, after = text.rpartition("</think>")
  if not thought and "<think>" in text:
    raise ValueError("the reasoning does not end")
  return _last_object(after.strip())


def _request(
  role: str,
  item: tuple[ImageExample, Question, Answer],
  max_tokens: int,
  temperature: float,
  seed: int,
) -> Request:
  example, question, answer = item
  fields = {"question": question.text, "answer": answer.text}
  return Request(
    messages=prompts.render(role, **fields),
    images=(example.png,),
    fields=fields,
    max_tokens=max_tokens,
    temperature=temperature,
    seed=seed,
  )


def _verdict(reply: Reply) -> Verdict:
  if reply.error:
    return Verdict("unscored", rationale=f"no verdict: {reply.error}")
  try:
    parsed = parse(reply.text)
  except ValueError as error:
    return Verdict(
      "unscored", rationale=f"not a verdict: {error}: {reply.text[:200]!r}"
    )
  rationale = "\n".join(
    f"{key}: {' '.join(why.split())}" for key, (_, why) in parsed.items()
  )
  return Verdict(
    "ok", **{key: ok for key, (ok, _) in parsed.items()}, rationale=rationale
  )


def _last_object(text: str) -> dict[str, Any]:
  """The JSON object that ends where the text ends."""
  if text.endswith("```"):
    text = text[:-3].rstrip()
  # From the left, so that the outermost object is found before those inside it.
  start = text.find("{")
  while start >= 0:
    try:
      found = json.loads(text[start:], object_pairs_hook=_once)
    except json.JSONDecodeError:
      start = text.find("{", start + 1)
      continue
    except RecursionError as error:
      raise ValueError("it is nested too deeply") from error
    return found
  raise ValueError("there is no JSON object at its end")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  # json.loads would take the last of two: that would be a guess.
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("a key is there twice")
  return found
