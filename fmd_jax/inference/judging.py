"""How a judge is asked and when its reply is a verdict, whichever role judges.

A verdict is one JSON object, and nothing after it:
{"grammatical": {"why": "…", "ok": true}, "atomic": …, "grounded": …,
"objective": …, "correct": …}. Reasoning before `</think>`, and plain text before
the object, is dropped. Anything else is not a verdict: nobody guesses.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fmd_jax import prompts
from fmd_jax.inference.protocol import (
  Generator,
  Messages,
  Reply,
  Request,
  generate_distinct,
  identity,
)
from fmd_jax.prompts import judge as template
from fmd_jax.types import CRITERIA, Answer, ImageExample, Question, Verdict

_KEYS = (*CRITERIA, "correct")
_RETRY_TEMPERATURE = 0.7
_VOTE_TEMPERATURE = 0.7
_LONGEST_REASON = 200

Item = tuple[ImageExample, Question, Answer]


def judge(
  role: str,
  generator: Generator,
  items: Sequence[Item],
  *,
  retries: int = 1,
  max_tokens: int = 512,
  temperature: float = 0.0,
  seed: int = 0,
  votes: int = 1,
  agreement: float = 0.0,
) -> list[Verdict]:
  """Asks a judge about questions and answers.

  A question that is unparsed, or has no answer, is never sent. A reply outside the
  grammar is asked for again, with what was wrong about it, sampled with another seed;
  then it is "unscored".

  Args:
    role: whose prompt: "verifier" or "evaluator".
    generator: the judge.
    items: image, question and answer, N of them.
    retries: how often a reply outside the grammar is asked for again.
    max_tokens: the longest reply.
    temperature: of the first attempt; with several votes at least 0.7.
    seed: of the first attempt; attempt i has seed + i.
    votes: verdicts to ask for; the most frequent outcome (valid and, then, correct) is
      taken. A tie is "unscored".
    agreement: the least share of all votes, those without a verdict included, for that
      outcome; below it is "unscored": the judge abstains.

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
  sent = [i for i, verdict in enumerate(verdicts) if verdict is None]
  heat = temperature if votes == 1 else max(temperature, _VOTE_TEMPERATURE)
  ballots = [
    _request(role, items[i], max_tokens, heat, seed, vote)
    for i in sent
    for vote in range(votes)
  ]
  cast = _ask(generator, ballots, retries)
  for place, i in enumerate(sent):
    own = cast[place * votes : (place + 1) * votes]
    verdict = own[0] if votes == 1 else _elect(own, agreement)
    verdicts[i] = dataclasses.replace(verdict, model=model)
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
      raise ValueError(f"{key} is not an object of why and ok")
    if not isinstance(entry["ok"], bool) or not isinstance(entry["why"], str):
      raise ValueError(f"{key} is not a text with a boolean")
    out[key] = (entry["ok"], entry["why"])
  return out


def read_object(text: str) -> dict[str, Any]:
  """Reads the JSON object that ends a reply; reasoning before it is dropped.

  Raises:
    ValueError: there is none, or the reasoning does not end.
  """
  found, source = _last_object(text)
  # Only what stands before it: a reason may quote a question that has such a tag.
  before = text[: text.rfind(source)]
  if "<think>" in before and "</think>" not in before:
    raise ValueError("the reasoning does not end")
  return found


def _request(
  role: str, item: Item, max_tokens: int, temperature: float, seed: int, sample: int
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
    sample=sample,
    schema=template.SCHEMA,
  )


def _ask(
  generator: Generator, requests: Sequence[Request], retries: int
) -> list[Verdict]:
  """A verdict for each request, model left out, after as many attempts as it takes."""
  now, verdicts = list(requests), [Verdict("unscored")] * len(requests)
  pending = list(range(len(now)))
  for attempt in range(retries + 1):
    if not pending:
      break
    replies = generate_distinct(generator, [now[i] for i in pending])
    again = []
    for i, reply in zip(pending, replies, strict=True):
      verdicts[i], reason = _verdict(reply, now[i])
      if reason:
        again.append(i)
        now[i] = dataclasses.replace(
          now[i],
          messages=_repaired(requests[i].messages, reply, reason),
          temperature=max(now[i].temperature, _RETRY_TEMPERATURE),
          seed=requests[i].seed + attempt + 1,
        )
    pending = again
  return verdicts


def _repaired(asked: Messages, reply: Reply, reason: str) -> Messages:
  return template.repair(asked, reply.text, reason)


def _verdict(reply: Reply, request: Request) -> tuple[Verdict, str]:
  """The verdict of a reply and, where it is none and should be asked for again, why."""
  if reply.error:
    return Verdict("unscored", rationale=f"no verdict: {reply.error}"), ""
  try:
    parsed = parse(reply.text)
    if _repeats(reply.text, request.fields):
      raise ValueError("it repeats an object of the question or the answer")
  except ValueError as error:
    reason = str(error)[:_LONGEST_REASON]
    if reply.finish == "length":
      reason = f"cut off at {request.max_tokens} tokens, {reason}"
    text = f"not a verdict: {reason}: {reply.text[:_LONGEST_REASON]!r}"
    return Verdict("unscored", rationale=text), reason
  rationale = "\n".join(
    f"{key}: {' '.join(_utf8(why).split())}" for key, (_, why) in parsed.items()
  )
  criteria = {key: ok for key, (ok, _) in parsed.items()}
  return Verdict("ok", **criteria, rationale=rationale), ""


def _elect(votes: Sequence[Verdict], agreement: float) -> Verdict:
  """The first vote for the most frequent outcome, or an abstention."""
  outcomes = [
    (vote.valid, vote.correct if vote.valid else None)
    for vote in votes
    if vote.status == "ok"
  ]
  if not outcomes:
    return votes[0]
  (winner, most), *others = Counter(outcomes).most_common()
  if others and others[0][1] == most:
    return Verdict("unscored", rationale=f"abstained: a tie at {most} of {len(votes)}")
  if most < agreement * len(votes):
    return Verdict(
      "unscored", rationale=f"abstained: {most} of {len(votes)} votes agree"
    )
  chosen = next(
    vote
    for vote in votes
    if vote.status == "ok"
    and (vote.valid, vote.correct if vote.valid else None) == winner
  )
  rationale = f"{most} of {len(votes)} votes\n{chosen.rationale}"
  return dataclasses.replace(chosen, rationale=rationale)


def _repeats(text: str, fields: Any) -> bool:
  """Whether the object at the end of a reply stands in the question or the answer: a
  judge that quotes a planted verdict has given none."""
  _, source = _last_object(text)
  quoted = _bare(source)
  return any(quoted in _bare(value) for value in fields.values())


def _bare(text: str) -> str:
  # Without what quoting and formatting add.
  return re.sub(r"[\s\\]", "", text)


def _last_object(text: str) -> tuple[dict[str, Any], str]:
  """The JSON object that ends where the text ends, and its source."""
  text = text.strip()
  text = text.removesuffix("```").rstrip()
  # From the left, so that the outermost object is found before those inside it.
  start = text.find("{")
  while start >= 0:
    try:
      return json.loads(text[start:], object_pairs_hook=_once), text[start:]
    except json.JSONDecodeError:
      start = text.find("{", start + 1)
    except RecursionError as error:
      raise ValueError("it is nested too deeply") from error
  raise ValueError("there is no JSON object at its end")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  # json.loads would take the last of two: that would be a guess.
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("a key is there twice")
  return found


def _utf8(text: str) -> str:
  # JSON can spell half a surrogate pair, which Parquet does not take.
  return text.encode("utf-8", "replace").decode()
