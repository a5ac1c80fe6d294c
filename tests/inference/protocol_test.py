"""Equal requests of a batch are asked once."""

import dataclasses

import pytest

from fmd_jax.inference import InferenceError, Reply, Request, generate_distinct


class Numbered:
  """Replies with the number of requests it has seen."""

  name, revision = "numbered", ""

  def __init__(self):
    self.seen = []

  def generate(self, requests):
    self.seen += requests
    return [Reply(str(i)) for i in range(len(requests))]


def ask(question, image=b"a", **more):
  messages = [{"role": "user", "content": question}]
  return Request(messages, (image,), {"question": question}, **more)


def test_copies_get_the_reply_of_the_first():
  # Sent again, the copy would be "2"; zipped with the short list, the last is lost.
  model = Numbered()
  requests = [ask("x"), ask("y"), ask("x"), ask("x", image=b"b"), ask("y")]
  replies = generate_distinct(model, requests)
  assert [reply.text for reply in replies] == ["0", "1", "0", "2", "1"]
  assert model.seen == [requests[0], requests[1], requests[3]]
  assert generate_distinct(model, []) == [] and len(model.seen) == 3


@pytest.mark.parametrize("change", [{"max_tokens": 9}, {"fields": {"answer": "z"}}])
def test_what_differs_anywhere_is_asked(change):
  # The oracle reads the fields and not the messages.
  model = Numbered()
  generate_distinct(model, [ask("x"), dataclasses.replace(ask("x"), **change)])
  assert len(model.seen) == 2


def test_sampled_requests_are_all_asked():
  model = Numbered()
  assert len(generate_distinct(model, [ask("x", temperature=1.0)] * 3)) == 3
  assert len(model.seen) == 3


def test_a_reply_too_few_is_an_error():
  class Short(Numbered):
    def generate(self, requests):
      return super().generate(requests)[1:]

  with pytest.raises(InferenceError, match="1 replies to 2 requests"):
    generate_distinct(Short(), [ask("x"), ask("y")])
