"""The answerer: who is asked, and what becomes of a reply."""

from fmd_jax import answerer
from fmd_jax.inference import Reply
from fmd_jax.types import Answer, ImageExample, Question


class Scripted:
  name, revision = "target", "7"

  def __init__(self, reply):
    self.reply, self.seen = reply, []

  def generate(self, requests):
    self.seen += requests
    return [self.reply(request) for request in requests]


def pair(text: str, status: str = "ok"):
  example = ImageExample("i", b"png of " + text.encode())
  return example, Question("i", 0, 0, text, status=status)


def test_answers_are_in_order_and_failures_are_unscored():
  # Wrong: an unparsed question is sent, or the answers after it move up by one; a
  # failed request becomes the answer "", which a judge would call wrong.
  def reply(request):
    question = request.fields["question"]
    return Reply("", error="boom") if question == "bad" else Reply(f" {question}! ")

  model = Scripted(reply)
  pairs = [pair("a"), pair("", "unparsed"), pair("bad"), pair("b")]
  assert answerer.ask(model, pairs, max_tokens=9) == [
    Answer("a!", "target@7"),
    Answer("", "target@7", status="unparsed"),
    Answer("", "target@7", status="unscored", error="boom"),
    Answer("b!", "target@7"),
  ]
  assert [request.images for request in model.seen] == [
    (b"png of a",),
    (b"png of bad",),
    (b"png of b",),
  ]
  assert {request.max_tokens for request in model.seen} == {9}
  assert model.seen[0].messages[-1]["content"][-1] == {"type": "text", "text": "a"}


def test_reasoning_is_split_off():
  # Wrong: the judge sees the reasoning, where any answer may be mentioned.
  model = Scripted(lambda _: Reply("<think>red? no</think>\nblue"))
  assert answerer.ask(model, [pair("a")])[0].text == "blue"
  model = Scripted(lambda _: Reply("<think>red? n", finish="length"))
  assert answerer.ask(model, [pair("a")])[0].status == "unscored"


def test_nothing_to_ask_asks_nothing():
  model = Scripted(lambda _: Reply("x"))
  assert answerer.ask(model, []) == []
  assert answerer.ask(model, [pair("", "unparsed")])[0].status == "unparsed"
  assert model.seen == []
