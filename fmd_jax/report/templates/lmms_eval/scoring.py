"""How lmms-eval asks the failed questions again, and what it makes of the replies.

This file is copied into the task's folder and needs nothing but Python.
"""

import logging
import re
from collections import defaultdict

_WORDS = (
  *("zero", "one", "two", "three", "four", "five", "six"),
  *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)}


def doc_to_visual(doc):
  return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
  own = lmms_eval_specific_kwargs or {}
  return f"{own.get('pre_prompt', '')}{doc['question']}{own.get('post_prompt', '')}"


def doc_to_target(doc):
  return doc["truth"] or ""


def process_results(doc, results):
  """Scores one reply.

  Args:
    doc: a failure, without its picture.
    results: [the reply].

  Returns:
    "repeated": 1 when the reply is the wrong answer that was recorded. "fixed": 1 when
    it is the true one; left out where the truth is not known: a reply that nobody can
    judge is neither right nor wrong.
  """
  reply = words(results[0] if results else "")
  own = {"image_id": doc["image_id"], "skills": list(doc["skills"])}
  scores = {"repeated": {"score": float(reply == words(doc["answer"])), **own}}
  if doc["truth"]:
    scores["fixed"] = {"score": float(says(reply, words(doc["truth"]))), **own}
  return scores


def words(text):
  """Words in lower case without punctuation and articles; small numbers as digits."""
  found = re.findall(r"\w+", text.lower())
  return [_NUMBERS.get(word, word) for word in found if word not in ("a", "an", "the")]


def says(reply, truth):
  """Whether the words of a reply hold those of the truth, one after another.

  For yes and no the first of the two counts: "yes, there is no star" says yes.
  """
  if truth in (["yes"], ["no"]):
    return next((word for word in reply if word in ("yes", "no")), None) == truth[0]
  ends = range(len(truth), len(reply) + 1)
  return bool(truth) and any(reply[end - len(truth) : end] == truth for end in ends)


def mean(items):
  """The share over all failures; the one of each skill goes to the log."""
  by_skill = defaultdict(list)
  for item in items:
    for skill in item["skills"]:
      by_skill[skill].append(item["score"])
  for skill, scores in sorted(by_skill.items()):
    share = sum(scores) / len(scores)
    logging.info("%s: %.1f %% of %d", skill, 100 * share, len(scores))
  return sum(item["score"] for item in items) / len(items) if items else None
