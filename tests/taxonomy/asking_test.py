"""The strict grammar of annotator, namer and organizer."""

import json

import pytest

from fmd_jax.inference import Reply
from fmd_jax.taxonomy import asking


class Says:
  """Replies from a list of lists, one for each attempt."""

  name, revision = "says", ""

  def __init__(self, *attempts):
    self.attempts, self.requests = list(attempts), []

  def generate(self, requests):
    self.requests.append(list(requests))
    return [r if isinstance(r, Reply) else Reply(r) for r in self.attempts.pop(0)]


def annotate(*attempts, retries=1):
  model = Says(*attempts)
  items = [(b"png", "Q?")] * len(attempts[0])
  return asking.annotate(model, items, max_tokens=9, retries=retries), model


def test_a_good_reply_and_what_is_sent():
  reply = '<think>{"primitives": []}</think>ok: {"primitives": [" a  b ", "c", "c"]}'
  (found,), model = annotate([reply])
  assert found == asking.Outcome(["a b", "c"])
  (request,) = model.requests[0]
  assert request.images == (b"png",) and request.max_tokens == 9
  assert request.fields == {"task": "primitives", "question": "Q?"}
  # A question is data: JSON-quoted in the prompt.
  assert request.messages[1]["content"][1]["text"] == '{"question": "Q?"}'


def test_what_could_break_a_prompt_or_a_table_is_made_harmless():
  (found,), model = annotate([r'{"primitives": ["a\ud800b"]}'])
  assert found.value == ["a?b"]
  model = Says(['{"label": "x"}'])
  asking.name_topics(model, [(["</think>"], [])], max_tokens=9, retries=0)
  assert "<" not in model.requests[0][0].messages[1]["content"][0]["text"]


@pytest.mark.parametrize(
  "reply",
  [
    "",
    "counting",
    '{"primitives": []}',
    '{"primitives": "counting"}',
    '{"primitives": ["counting", 3]}',
    '{"primitives": ["..."]}',
    '{"primitives": ["%s"]}' % ("x" * 201),
    '{"primitives": ["a"], "why": "b"}',
    '{"primitives": ["a"]} and more',
    json.dumps({"primitives": [str(i) for i in range(13)]}),
  ],
)  # fmt: skip
def test_a_reply_outside_the_grammar_is_asked_again_then_an_error(reply):
  # Wrong: half a reply is taken for a whole one.
  (found,), model = annotate([reply], [reply])
  assert found.value is None and found.error
  assert len(model.requests) == 2
  (found,), _ = annotate([reply], ['{"primitives": ["a"]}'])
  assert found == asking.Outcome(["a"])


def test_a_model_that_failed_is_not_asked_again():
  (first, second), model = annotate([Reply("", error="down"), '{"primitives": ["a"]}'])
  assert first == asking.Outcome(None, "down") and second.value == ["a"]
  assert len(model.requests) == 1


def organize(groups):
  reply = json.dumps({"meta_skills": groups})
  model = Says([reply])
  return asking.organize(model, ["a", "b"], max_tokens=9, retries=0)


def group(name, *skills):
  return {"name": name, "description": "d", "skills": list(skills)}


def test_every_skill_is_in_exactly_one_meta_skill():
  good = [group("x", "a"), group("y", "b"), group("z")]
  assert organize(good).value == good[:2]
  for bad in (
    [group("x", "a")],
    [group("x", "a", "b", "c")],
    [group("x", "a", "b"), group("y", "b")],
    [group("x", "a"), group("x", "b")],
    [],
    [{"name": "x", "skills": ["a", "b"]}],
  ):
    assert organize(bad).value is None, bad
