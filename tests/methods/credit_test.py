"""Who gets credit for a reward: the response, or the question that earned it."""

import json
import types

import jax
import numpy as np
import pytest

from fmd_jax import discover, inference, records, rewards, rollout
from fmd_jax.inference.engines.minilm import MiniLMEngine
from fmd_jax.inference.engines.scripted import ScriptedEngine
from fmd_jax.methods import grpo, training
from fmd_jax.models.processor import Processor
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.types import CRITERIA, ImageExample
from tests.rewards.bruteforce import recompute_rewards
from tests.runs import small_config

STEPS = 2
VOCABULARY = [
  "", "<response_1>", "</response_1>", "<response_2>", "</response_2>", "\n",
  "wrong", "right", "invalid", "rubbish",
]  # fmt: skip
# Slots: wrong, right | invalid, rubbish | (missing), wrong.
RESPONSES = [
  [1, 6, 2, 5, 3, 7, 7, 4, 0],
  [1, 8, 2, 3, 9, 4, 0, 0, 0],
  [3, 6, 4, 0, 0, 0, 0, 0, 0],
]
LENGTHS = [9, 7, 4]


def decode(ids):
  return "".join(VOCABULARY[i] for i in ids)


def verdict(request):
  """A question says itself what becomes of it."""
  question = request.fields["question"]
  if question == "rubbish":
    return "I would rather not say."
  ok = dict.fromkeys(CRITERIA, question != "invalid")
  ok["correct"] = "right" in question
  return json.dumps({key: {"ok": value, "why": ""} for key, value in ok.items()})


@pytest.fixture
def judged():
  """One image, three responses of two slots, and the samples they were parsed from."""
  roles = rollout.Roles(
    ScriptedEngine(lambda request: "an answer", "answerer", ""),
    ScriptedEngine(verdict, "verifier", ""),
    ScriptedEngine(lambda text: [1.0], "embedder", ""),
  )
  texts = [decode(ids[:n]) for ids, n in zip(RESPONSES, LENGTHS, strict=True)]
  result = rollout.judge_responses(
    [ImageExample("image", b"")],
    [texts],
    roles,
    rewards.Banks(2),
    k=2,
    # No diversity term: a failure earns 1, an invalid or missing question pays 1.
    reward=rollout.RewardOptions(("penalty",), 0.5, 1.0, 2, "paper", "mean"),
    limits=rollout.Limits(8, 8, 0),
    seed=0,
  )
  samples = types.SimpleNamespace(
    tokens=np.array([RESPONSES]), lengths=np.array([LENGTHS])
  )
  return samples, result, roles


def a_run(std_floor=0.0):
  processor = types.SimpleNamespace(decode=decode)
  config = small_config(**{"advantage.std_floor": std_floor})
  agent = types.SimpleNamespace(
    processor=processor, tokens=lambda samples: (samples.tokens, samples.lengths)
  )
  return types.SimpleNamespace(config=config, agent=agent)


def test_each_token_has_the_advantage_of_its_question(judged):
  """Rewards 1, 0 | -1, unscored | -1, 1: mean 0, std (ddof = 1) 1.

  The response's mean would give .5 to both of the first one's questions; "rubbish"
  counted as 0 a std of .894 and so 1.118 first; tags of the second response are worth
  its only scored slot, -1, where dividing by K gives -.5.
  """
  samples, result, _ = judged
  trained, recorded = grpo.CREDIT["question"](a_run(), samples, result)
  want = [
    [0.5, 1, 0.5, 0.5, 0.5, 0, 0, 0.5, 0.5],
    [-1, -1, -1, -1, 0, -1, -1],
    [0, 1, 0, 0],
  ]
  assert trained.shape == (1, 3, 9)
  for got, row, n in zip(trained[0], want, LENGTHS, strict=True):
    np.testing.assert_allclose(got[:n], row, atol=2e-6)
  np.testing.assert_allclose(recorded, [[[1, 0], [-1, 0], [-1, 1]]], atol=2e-6)
  # std_floor 4 is above the std of 1: a config key that is not passed on gives 1.
  _, floored = grpo.CREDIT["question"](a_run(std_floor=4.0), samples, result)
  np.testing.assert_allclose(floored, recorded / 4, atol=1e-6)


def test_response_credit_is_shared(judged):
  """Response rewards .5, -1, 0: mean -1/6, std .763763."""
  samples, result, _ = judged
  trained, recorded = grpo.CREDIT["response"](a_run(), samples, result)
  np.testing.assert_allclose(trained, [[0.872870, -1.091088, 0.218217]], atol=2e-5)
  np.testing.assert_array_equal(trained, recorded)


@pytest.mark.parametrize(
  ("credit", "expected"),
  [
    ("question", [1, 0, -1, None, -1, 1]),
    # An unscored slot has no reward of its own, but was trained with its response's.
    ("response", [0.872870, 0.872870, -1.091088, -1.091088, 0.218217, 0.218217]),
  ],
)
def test_records_hold_what_was_credited(judged, credit, expected):
  """0 instead of None would say that the unscored slot was worth the mean."""
  samples, result, roles = judged
  _, recorded = grpo.CREDIT[credit](a_run(), samples, result)
  common = {"run_id": "r", "method": "grpo", "split": "train", "step": 0}
  rows = rollout.records(
    result,
    common={**common, "questioner_step": 0},
    prefix_length=2,
    roles=roles,
    advantages=jax.device_get(recorded),
  )
  got = [row.advantage for row in rows]
  assert [value is None for value in got] == [value is None for value in expected]
  known = [(a, b) for a, b in zip(got, expected, strict=True) if a is not None]
  np.testing.assert_allclose(*zip(*known, strict=True), atol=2e-5)


@pytest.mark.slow
def test_a_run_with_credit_per_question(tmp_path, monkeypatch):
  """What the update got, token by token, against what the rows say; our reward."""
  batches, make_update_fn = [], training.make_update_fn

  def watched(*args, **kwargs):
    update = make_update_fn(*args, **kwargs)

    def watch(state, batch):
      batches.append(
        jax.device_get((batch.completions, batch.lengths, batch.advantages))
      )
      return update(state, batch)

    return watch

  monkeypatch.setattr(training, "make_update_fn", watched)
  config = small_config(
    **{
      "methods": ("grpo",),
      "steps": STEPS,
      "advantage.credit": "question",
      "advantage.std_floor": 0.2,
      "reward.lexical": "relative",
    }
  )
  discover.discover(config, tmp_path)
  rows = records.read(tmp_path, "grpo")
  recomputed = recompute_rewards(
    rows,
    MiniLMEngine().embed,
    config.reward.terms,
    (config.reward.lambda_scale, config.reward.lambda_penalty),
    config.reward.prefix_length,
    "relative",
  )
  np.testing.assert_allclose(rows["reward"], recomputed["reward"], atol=1e-5)
  for _, group in rows.groupby(["step", "group_id"], sort=False):
    reward = group["reward"].to_numpy(float)
    wanted = (reward - reward.mean()) / (max(reward.std(ddof=1), 0.2) + 1e-6)
    wanted = wanted if np.ptp(reward) > 0 else np.zeros_like(reward)
    np.testing.assert_allclose(group["advantage"].to_numpy(float), wanted, atol=1e-4)
  # With the response's advantage in both rows of a response this would be 0.
  shape = (STEPS, 4, 3, 2)
  advantage = rows["advantage"].to_numpy(float).reshape(shape)
  assert np.abs(advantage[..., 0] - advantage[..., 1]).max() > 0.1

  folder = inference.checkpoint_folder(config.roles.questioner)
  processor = Processor.from_folder(folder)
  questions = rows["question"].to_numpy(object).reshape(shape)
  opening = [processor.token_id(f"<response_{i}>") for i in (1, 2)]
  seen = 0
  for step, (tokens, lengths, got) in enumerate(batches):
    assert got.shape == tokens.shape
    for place in np.ndindex(lengths.shape):
      ids = tokens[place][: lengths[place]].tolist()
      own = advantage[(step, *place)]
      assert parse_response(processor.decode(ids), 2) == [
        question or None for question in questions[(step, *place)]
      ]
      if [ids.count(tag) for tag in opening] != [1, 1]:
        continue
      # Between its two tags, one token each, a question stands alone.
      wanted = np.full(len(ids), own.mean())
      for slot, tag in enumerate(opening):
        first = ids.index(tag) + 1
        close = processor.token_id(f"</response_{slot + 1}>")
        last = ids.index(close, first) if close in ids[first:] else first
        wanted[first:last] = own[slot]
      np.testing.assert_allclose(got[place][: len(ids)], wanted, atol=1e-5)
      seen += 1
  assert seen > STEPS * 12 // 2


def test_unknown_credit_is_refused():
  """Wrong: a KeyError after the models were loaded."""
  config = small_config(**{"advantage.credit": "token"})
  with pytest.raises(ValueError, match="advantage.credit is 'token'.*question"):
    discover.check(config)
