"""Answers stream into the verifier, and every process knows every row."""

import json
import threading

import numpy as np
import pytest

from fmd_jax import hosts, inference, rewards, rollout
from fmd_jax.rollout import judges as judges_module
from fmd_jax.stopping import Stop
from fmd_jax.types import CRITERIA, ImageExample
from tests import players

REWARD = rollout.RewardOptions(
  ("semantic", "lexical", "penalty"), 0.5, 1.0, 2, "paper", "mean"
)
LIMITS = rollout.Limits(8, 64, 0)
IMAGES = [ImageExample(f"image-{i}", bytes([i])) for i in range(4)]
# G = 2, K = 1: a question of its own to each image, and one that all get.
RESPONSES = [[f"Is it {i}?", "What color is it?"] for i in range(4)]
RESPONSES = [[f"<response_1>{q}</response_1>" for q in row] for row in RESPONSES]


class Model:
  """Calls a function with the questions of each batch."""

  name, revision = "model", ""

  def __init__(self, reply, seen=lambda questions: None):
    self._reply, self._seen = reply, seen

  def generate(self, requests):
    self._seen([request.fields["question"] for request in requests])
    return [inference.Reply(self._reply(request)) for request in requests]

  def embed(self, texts):
    return [np.array(players.embed(text), np.float32) for text in texts]


def wrong(request):
  ok = {name: {"ok": True, "why": ""} for name in CRITERIA}
  return json.dumps(
    {**ok, "correct": {"ok": "2" in request.fields["question"], "why": ""}}
  )


def roles(answer=players.answer, **seen):
  asked = Model(answer, seen.get("answers", lambda questions: None))
  judged = Model(wrong, seen.get("verdicts", lambda questions: None))
  return rollout.Roles(asked, judged, asked)


def hand(made, images=IMAGES, responses=RESPONSES):
  return made.hand(images, responses, terms=REWARD.terms, seed=0)


def test_answers_stream_into_the_verifier(monkeypatch):
  # Wrong: all answers, then all verdicts; this would then wait for ever.
  monkeypatch.setattr(judges_module, "_PART", 4)
  begun, parts = threading.Event(), []

  def answering(questions):
    parts.append(questions)
    assert len(parts) == 1 or begun.wait(20)

  streamed = roles(answers=answering, verdicts=lambda questions: begun.set())
  found = hand(rollout.Judges(streamed, k=1, limits=LIMITS)).result(30)
  # Two images a part, and the same verdicts as in one go.
  assert [len(part) for part in parts] == [4, 4]
  monkeypatch.setattr(judges_module, "_PART", 10**6)
  assert (
    found.slots == hand(rollout.Judges(roles(), k=1, limits=LIMITS)).result(30).slots
  )
  assert [slot[0].image_id for slot in found.slots] == [
    image.image_id for image in IMAGES for _ in range(2)
  ]


def test_the_next_step_is_answered_while_one_is_judged():
  # Wrong: the answerer idles while the verifier works.
  second = threading.Event()
  made = rollout.Judges(
    roles(
      answers=lambda questions: "Is it next?" in questions and second.set(),
      verdicts=lambda questions: "Is it 0?" in questions and second.wait(20),
    ),
    k=1,
    limits=LIMITS,
  )
  first = hand(made)
  following = [["<response_1>Is it next?</response_1>"] * 2] * 4
  assert hand(made, responses=following).result(30) and first.result(30)
  assert second.is_set()


def test_a_model_that_fails_is_heard_of():
  # Wrong: a thread that dies, and a run that waits for it.
  def fail(questions):
    raise inference.InferenceError("the sidecar is gone")

  made = rollout.Judges(roles(answers=fail), k=1, limits=LIMITS)
  with pytest.raises(inference.InferenceError, match="is gone"):
    rollout.score(hand(made), rewards.Banks(2), REWARD)
  # The next step is a new attempt.
  with pytest.raises(inference.InferenceError, match="is gone"):
    hand(made).result(30)


def test_a_run_that_stops_does_not_wait_for_a_model():
  never = threading.Event()
  made = rollout.Judges(
    roles(verdicts=lambda questions: never.wait(60)), k=1, limits=LIMITS
  )
  stop, banks = Stop(), rewards.Banks(2)
  with pytest.raises(hosts.Stopped), stop.deferred():
    threading.Timer(0.3, stop.ask, ["the test"]).start()
    rollout.score(hand(made), banks, REWARD, stop.wait)
  assert not banks.counts
  never.set()


def test_two_processes_score_as_one(monkeypatch):
  """Each has half of the images; what they exchange is faked.

  With banks of one's own rows the second step's rewards would be higher; appended in
  another order, the banks would differ.
  """

  def two_steps(parts, index):
    banks, found = rewards.Banks(2), []
    monkeypatch.setattr(hosts, "index", lambda: index)
    for _ in range(2):
      judged = [
        hand(rollout.Judges(roles(), k=1, limits=LIMITS), IMAGES[p], RESPONSES[p])
        for p in parts
      ]

      def everyone(tell, judged=judged):
        own = tell()
        told = [
          (
            [judges_module.row_of(*slot) for slot in j.result().slots],
            j.result().vectors,
            j.result().calls,
          )
          for j in judged
        ]
        assert [r[:3] for r in own[0]] == [r[:3] for r in told[index][0]]
        return told

      monkeypatch.setattr(hosts, "together", everyone)
      found.append(rollout.score(judged[index], banks, REWARD))
    return found, banks.state()

  whole, (arrays, meta) = two_steps([slice(0, 4)], 0)
  for index, half in enumerate((slice(0, 2), slice(2, 4))):
    found, (own_arrays, own_meta) = two_steps([slice(0, 2), slice(2, 4)], index)
    assert own_meta == meta
    np.testing.assert_array_equal(own_arrays["embeddings"], arrays["embeddings"])
    for one, part in zip(whole, found, strict=True):
      np.testing.assert_array_equal(part.rewards, one.rewards[half])
      np.testing.assert_array_equal(part.slot_rewards, one.slot_rewards[half])
      own, all_ = rollout.measurements(part), rollout.measurements(one)
      for name in ("reward/mean", "rollout/fdr", "rollout/failures"):
        assert own[name] == all_[name]
  assert whole[0].rewards.max() > whole[1].rewards.max() > 0
