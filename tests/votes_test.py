"""Several votes, abstention, the text-only control, and the repaired prompt."""

import json

import pytest

from fmd_jax import verifier
from fmd_jax.inference import Reply
from fmd_jax.types import Answer, ImageExample, Question, Verdict

KEYS = ("grammatical", "atomic", "grounded", "objective", "correct")
IMAGE = ImageExample("i", b"png")


def verdict(*wrong: str) -> str:
  return json.dumps({k: {"why": f"{k}.", "ok": k not in wrong} for k in KEYS})


def item(question="q", answer="red"):
  return IMAGE, Question("i", 0, 0, question), Answer(answer, "target")


class Judge:
  """Replies from a list, in the order of asking; keeps the requests."""

  name, revision = "judge", ""

  def __init__(self, *replies):
    self.replies, self.requests = list(replies), []

  def generate(self, requests):
    self.requests += requests
    return [Reply(self.replies.pop(0)) for _ in requests]


@pytest.mark.parametrize(
  ("ballots", "agreement", "outcome"),
  [
    # (status, valid, correct)
    ([(), (), ("correct",)], 0.0, ("ok", True, True)),
    ([("correct",), (), ("correct",)], 0.6, ("ok", True, False)),
    ([("correct",), (), ("correct",)], 0.7, ("unscored", None, None)),
    ([("atomic",), ("grounded",), ()], 0.0, ("ok", False, True)),
    # Wrong: a tie decided by who came first, or called invalid.
    ([(), ("correct",)], 0.0, ("unscored", None, None)),
    ([(), ("correct",), ("atomic",)], 0.0, ("unscored", None, None)),
  ],
)
def test_the_most_frequent_outcome_counts(ballots, agreement, outcome):
  model = Judge(*(verdict(*wrong) for wrong in ballots))
  (out,) = verifier.judge(
    model, [item()], votes=len(ballots), agreement=agreement, retries=0
  )
  assert (out.status, out.valid, out.correct) == outcome
  assert ("votes" in out.rationale) or "abstained" in out.rationale
  # Wrong: greedy votes are one vote, and so are votes that share a seed and a sample.
  assert all(request.temperature > 0 for request in model.requests)
  assert len({request.sample for request in model.requests}) == len(ballots)


def test_a_vote_without_a_verdict_is_none_for_anybody():
  # Wrong: 2 of 2 that can be read agree, so that 2 of 3 passes for unanimity.
  replies = [verdict(), "hm", verdict()]
  (out,) = verifier.judge(Judge(*replies), [item()], votes=3, agreement=0.9, retries=0)
  assert (out.status, out.rationale) == ("unscored", "abstained: 2 of 3 votes agree")
  (out,) = verifier.judge(Judge(*["hm"] * 3), [item()], votes=3, retries=0)
  assert out.status == "unscored"
  assert "not a verdict" in out.rationale


def test_votes_are_those_of_their_own_question():
  replies = [*[verdict("atomic")] * 3, *[verdict()] * 3]
  first, second = verifier.judge(Judge(*replies), [item("a"), item("b")], votes=3)
  assert (first.valid, second.valid) == (False, True)


def test_a_judge_is_told_what_was_wrong():
  # Wrong: the same prompt again, to which a greedy judge gives the same reply.
  model = Judge("It is <b>fine</b>.", verdict())
  (out,) = verifier.judge(model, [item()])
  assert out.status == "ok"
  first, second = model.requests
  assert second.messages[: len(first.messages)] == first.messages
  assistant, user = second.messages[-2:]
  assert assistant == {"role": "assistant", "content": "It is (b)fine(/b)."}
  assert "there is no JSON object at its end" in user["content"]
  assert second.schema == first.schema == model.requests[0].schema
  assert tuple(first.schema["properties"]) == KEYS


@pytest.mark.parametrize(
  ("text", "finish", "says"),
  [
    ("<think>The ball is", "length", "cut off at 9 tokens"),
    (f"<think>maybe {verdict()}", "length", "the reasoning does not end"),
    (verdict()[:-3], "length", "cut off at 9 tokens"),
    (f"<think>{verdict('atomic')}</think>", "stop", "no JSON object"),
  ],
)
def test_reasoning_that_was_cut_off_is_no_verdict(text, finish, says):
  class Cut(Judge):
    def generate(self, requests):
      return [Reply(text, finish=finish) for _ in requests]

  (out,) = verifier.judge(Cut(), [item()], max_tokens=9)
  assert out.status == "unscored"
  assert says in out.rationale


class Guesser:
  name, revision = "target", ""

  def __init__(self, guesses):
    self.guesses, self.requests = guesses, []

  def generate(self, requests):
    self.requests += requests
    return [
      Reply(self.guesses[request.fields["question"]][request.sample])
      for request in requests
    ]


class Exact(Judge):
  """Knows that all is red."""

  def generate(self, requests):
    self.requests += requests
    return [
      Reply(verdict(*(("correct",) if request.fields["answer"] != "red" else ())))
      for request in requests
    ]


def test_what_is_guessed_without_the_image_is_not_grounded():
  guesses = {"always": ["red"] * 3, "once": ["red", "blue", "red"], "": []}
  items = [item("always", "blue"), item("once"), item("invalid"), item("lost")]
  good = dict.fromkeys(KEYS, True)
  verdicts = [
    Verdict("ok", **good | {"correct": False}, rationale="so"),
    Verdict("ok", **good),
    Verdict("ok", **good | {"atomic": False}),
    Verdict("unscored"),
  ]
  target, judge = Guesser(guesses), Exact()
  options = {"answer_tokens": 5, "max_tokens": 9, "retries": 0, "seed": 1}
  out = verifier.without_image(target, judge, items, verdicts, guesses=3, **options)
  assert [v.valid for v in out] == [False, True, False, None]
  assert out[0].grounded is False
  assert out[0].rationale.startswith("so\ngrounded: answered right without the image")
  # Whether the answer with the image was right is another matter.
  assert out[0].correct is False
  assert out[1:] == verdicts[1:]
  # Wrong: the target sees the image, the judge does not; or invalid ones are asked too.
  assert len(target.requests) == 6
  # Equal guesses are judged once: red; red and blue.
  assert len(judge.requests) == 3
  assert all(request.images == () for request in target.requests)
  assert all(request.images == (b"png",) for request in judge.requests)
  off = verifier.without_image(target, judge, items, verdicts, guesses=0, **options)
  assert off == verdicts
  assert len(target.requests) == 6
