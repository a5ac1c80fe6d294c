"""Annotator, namer, organizer, paraphraser: what is sent, and the grammar of replies.

A reply outside the grammar is asked for again, sampled; then it is an error that the
caller records. Nobody guesses.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from fmd_jax import prompts
from fmd_jax.inference import Generator, Request
from fmd_jax.inference.judging import read_object

MOST_PRIMITIVES = 12  # of one question; more is rambling, not a list of skills
LONGEST = 200  # characters of a phrase or a label
_LONGEST_QUESTION = 2000
_RETRY_TEMPERATURE = 0.7


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a model said to one request: `value`, or `error` (value is None)."""

  value: Any
  error: str = ""


def annotate(
  generator: Generator, items: Sequence[tuple[bytes, str]], **options
) -> list[Outcome]:
  """The primitive skills of N (encoded image, question): lists of phrases."""
  requests = [
    ("annotator", {"question": question}, (image,)) for image, question in items
  ]
  return _ask(generator, requests, "primitives", _primitives, **options)


def name_topics(
  generator: Generator,
  topics: Sequence[tuple[Sequence[str], Sequence[str]]],
  **options,
) -> list[Outcome]:
  """The labels of N topics, each given as phrases and keywords."""
  requests = [
    ("namer", {"phrases": list(phrases), "keywords": list(keywords)}, ())
    for phrases, keywords in topics
  ]
  return _ask(generator, requests, "label", _label, **options)


def organize(generator: Generator, skills: Sequence[str], **options) -> Outcome:
  """Meta-skills: a list of {name, description, skills}, each skill in exactly one."""
  requests = [("organizer", {"skills": list(skills)}, ())]

  def read(found: dict[str, Any]) -> list[dict[str, Any]]:
    return _meta_skills(found, skills)

  return _ask(generator, requests, "meta_skills", read, **options)[0]


def paraphrase(
  generator: Generator, questions: Sequence[str], **options
) -> list[Outcome]:
  """N questions in other words."""
  requests = [("paraphraser", {"question": text}, ()) for text in questions]
  return _ask(generator, requests, "paraphrase", _paraphrase, **options)


def _ask(
  generator: Generator,
  prompted: Sequence[tuple[str, dict[str, Any], tuple[bytes, ...]]],
  task: str,
  read: Callable[[dict[str, Any]], Any],
  *,
  max_tokens: int,
  retries: int,
) -> list[Outcome]:
  """Asks N prompts: (role, fields, images). `read` raises ValueError on bad replies."""
  outcomes: list[Outcome | None] = [None] * len(prompted)
  pending = list(range(len(prompted)))
  for attempt in range(retries + 1):
    if not pending:
      break
    requests = []
    for i in pending:
      role, fields, images = prompted[i]
      data = {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items()}
      requests.append(
        Request(
          messages=prompts.render(role, **fields),
          images=images,
          fields={"task": task, **data},
          max_tokens=max_tokens,
          temperature=_RETRY_TEMPERATURE if attempt else 0.0,
          seed=attempt,
        )
      )
    again = []
    replies = generator.generate(requests)
    for i, reply in zip(pending, replies, strict=True):
      try:
        if reply.error:
          outcomes[i] = Outcome(None, reply.error)
          continue
        outcomes[i] = Outcome(read(read_object(reply.text)))
      except ValueError as error:
        outcomes[i] = Outcome(None, f"{error}: {reply.text[:200]!r}")
        again.append(i)
    pending = again
  return outcomes


def _only(found: dict[str, Any], key: str) -> Any:
  if set(found) != {key}:
    raise ValueError(f"its keys are {sorted(found)}, not {[key]}")
  return found[key]


def _text(value: Any, what: str, longest: int = LONGEST) -> str:
  if not isinstance(value, str) or not any(c.isalnum() for c in value):
    raise ValueError(f"{what} is not a text")
  if len(value) > longest:
    raise ValueError(f"{what} is longer than {longest} characters")
  # JSON can spell half a surrogate pair, which Parquet does not take.
  return " ".join(value.encode("utf-8", "replace").decode().split())


def _primitives(found: dict[str, Any]) -> list[str]:
  values = _only(found, "primitives")
  if not isinstance(values, list) or not 1 <= len(values) <= MOST_PRIMITIVES:
    raise ValueError(f"primitives is not a list of 1 to {MOST_PRIMITIVES} phrases")
  return list(dict.fromkeys(_text(value, "a primitive") for value in values))


def _label(found: dict[str, Any]) -> str:
  return _text(_only(found, "label"), "the label")


def _paraphrase(found: dict[str, Any]) -> str:
  return _text(_only(found, "paraphrase"), "the paraphrase", _LONGEST_QUESTION)


def _meta_skills(found: dict[str, Any], skills: Sequence[str]) -> list[dict[str, Any]]:
  groups = _only(found, "meta_skills")
  if not isinstance(groups, list) or not groups:
    raise ValueError("meta_skills is not a list")
  out = []
  for group in groups:
    if not isinstance(group, dict) or set(group) != {"name", "description", "skills"}:
      raise ValueError("a meta-skill is not an object of name, description and skills")
    if not isinstance(group["skills"], list):
      raise ValueError("a meta-skill's skills are not a list")
    name, about = (_text(group[key], key) for key in ("name", "description"))
    out.append({"name": name, "description": about, "skills": group["skills"]})
  given = [skill for group in out for skill in group["skills"]]
  missing, extra = set(skills) - set(given), set(map(str, given)) - set(skills)
  if missing or extra or len(given) != len(skills):
    raise ValueError(
      f"skills left out: {sorted(missing)[:5]}, unknown: {sorted(extra)[:5]}, "
      f"{len(given)} places for {len(skills)} skills"
    )
  if len({group["name"] for group in out}) != len(out):
    raise ValueError("two meta-skills have one name")
  return [group for group in out if group["skills"]]
