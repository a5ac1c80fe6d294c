"""Verdicts that come late: their groups go into the next step, each exactly once."""

import threading

import jax
import numpy as np
import pytest

from fmd_jax import data, hosts, inference, records, rollout
from fmd_jax.inference.engines.oracle import OracleEngine
from fmd_jax.methods import asking, checks, groups, grpo, training
from fmd_jax.methods.run import Run
from fmd_jax.questioner.parsing import parse_response
from tests import hosts_test, players, runs
from tests.rewards.bruteforce import recompute_rewards

STEPS, B, G, K = 5, 4, 3, 2
# step -> places of the images whose verdicts come when the next step waits for them.
SLOW = {0: {1}, 1: {0, 2}, 2: {3}}


class Crash(BaseException):
  """Ends a run as SIGKILL does: nobody may save anything."""


class Answerer:
  name, revision = "answerer", ""

  def generate(self, requests):
    return [inference.Reply(players.answer(request)) for request in requests]


class Embedder:
  name, revision = "embedder", ""

  def embed(self, texts):
    return np.array([players.embed(text) for text in texts], np.float32)


class Judge:
  """The oracle, which keeps the groups of `SLOW` until a later step has begun."""

  name, revision = "oracle", ""

  def __init__(self, config, train):
    self._released = [threading.Event() for _ in range(STEPS)]
    batches = data.batches(train, B, config.seed)
    self._slow = {
      (config.seed + step, image.png)
      for step, batch in zip(range(STEPS), batches, strict=False)
      for place, image in enumerate(batch)
      if place in SLOW.get(step, ())
    }

  def generate(self, requests):
    # The seed of a step's requests is the run's and the step.
    if (requests[0].seed, requests[0].images[0]) in self._slow:
      assert self._released[requests[0].seed].wait(900)
    return OracleEngine().generate(requests)

  def step(self, number):
    for event in self._released[:number]:
      event.set()


def train_late(folder, monkeypatch, *, before=lambda step, run: None, **changes):
  """A GRPO run in which exactly the groups of `SLOW` are late."""
  config = runs.small_config(
    **{
      "methods": ("grpo",),
      "steps": STEPS,
      "rollout.late": 1e-9,
      "checkpoint.every": 2,
      "data.train": f"testbed://?split=train&size={B}",  # the same images again
      **changes,
    }
  )
  checks.check(config)
  train, heldout = data.open(config.data.train), data.open(config.data.heldout)
  judge, waiting = Judge(config, train), []
  roles = rollout.Roles(Answerer(), judge, Embedder())
  agent = training.make_agent(
    config, inference.checkpoint_folder(config.roles.questioner)
  )
  late = groups.late

  def watched(run, carried, fresh, last):
    step = fresh[0].asked.step
    before(step, run)
    judge.step(STEPS if last else step)
    waiting[:] = fresh
    return late(run, carried, fresh, last)

  def is_over(end):
    step = waiting[0].asked.step
    slow = {group.place for group in waiting if not group.judged.done()}
    return slow == SLOW.get(step, set())

  monkeypatch.setattr(asking.groups, "late", watched)
  monkeypatch.setattr(groups, "_is_over", is_over)
  with data.Workers(2, 64) as workers:
    grpo.run(Run(config, folder, "id", agent, roles, train, heldout, workers))
  monkeypatch.undo()
  return config


@pytest.mark.slow
def test_late_groups_are_the_next_steps(tmp_path, monkeypatch):
  """Nothing moves (a rate of 0): what is computed anew must be what was sampled.

  Wrong: a late group that is lost, or in two steps; one whose tokens meet another
  image; one that is scored against its own step's memory.
  """
  batches, make = [], training.make_update_fn

  def watched(*args, **kwargs):
    update = make(*args, **kwargs)

    def watch(state, batch):
      batches.append(jax.device_get(batch))
      return update(state, batch)

    return watch

  monkeypatch.setattr(training, "make_update_fn", watched)
  sampled, agent_sample = [], training.Agent.sample

  def sample(self, params, inputs, key):
    found = agent_sample(self, params, inputs, key)
    sampled.append(jax.device_get(found[:3]))
    return found

  monkeypatch.setattr(training.Agent, "sample", sample)
  config = train_late(tmp_path, monkeypatch, **{"optimizer.learning_rate": 0.0})

  rows = records.read(tmp_path, "grpo")
  assert len(rows) == STEPS * B * G * K
  # The images come again in each step: a key without G more would be there twice.
  assert not rows.duplicated(["step", "image_id", "response_index", "slot"]).any()
  assert not rows.duplicated(["group_id", "response_index", "slot"]).any()
  asked = rows["group_id"].str[:6].astype(int)
  assert (rows["questioner_step"] == asked).all()
  late = {(s, p) for s, places in SLOW.items() for p in places}
  moved = rows[rows["step"] != asked]
  assert (moved["step"] == asked[moved.index] + 1).all()
  assert (moved["response_index"] >= G).all() and moved["group_id"].nunique() == 4
  assert (rows.drop(moved.index)["response_index"] < G).all()
  found = recompute_rewards(
    rows,
    Embedder().embed,
    config.reward.terms,
    (config.reward.lambda_scale, config.reward.lambda_penalty),
    config.reward.prefix_length,
  )
  for name in ("reward", "response_reward"):
    np.testing.assert_allclose(rows[name].astype(float), found[name], atol=1e-6)
  numbers = records.read_measurements(tmp_path, "grpo")
  assert list(numbers["rollout/late"]) == [1, 2, 1, 0, 0]
  assert list(numbers["budget/questions"]) == [18, 18, 30, 30, 24]

  # What the update got, group by group, against samples and rows.
  assert [len(batch.lengths) for batch in batches] == [4, 4, 8, 8, 4]
  decode = training.Agent(
    inference.checkpoint_folder(config.roles.questioner),
    questions=K,
    group_size=G,
    max_new_tokens=8,
    temperature=1.0,
  ).processor.decode
  for step, batch in enumerate(batches):
    own = [(step, p) for p in range(B) if (step, p) not in late]
    carried = sorted(x for x in late if x[0] == step - 1)
    own = [*carried, *own]
    places = range(len(own)) if carried else [p for _, p in own]
    counts = np.zeros(len(batch.lengths), bool)
    counts[list(places)] = True
    np.testing.assert_array_equal(batch.response_mask.any(1), counts)
    assert not np.abs(batch.advantages[~counts]).any()
    assert (batch.token_weights is not None) == bool(carried)
    here = rows[rows["step"] == step]
    questions = here["question"].to_numpy(object).reshape(len(own), G, K)
    advantages = here["advantage"].to_numpy(float).reshape(len(own), G, K)[..., 0]
    for i, (place, (at, where)) in enumerate(zip(places, own, strict=True)):
      tokens, logprobs, lengths = (x[where] for x in sampled[at])
      width = batch.completions.shape[-1]
      np.testing.assert_array_equal(batch.completions[place], tokens[:, :width])
      np.testing.assert_allclose(
        batch.old_logprobs[place], logprobs[:, :width], atol=2e-4
      )
      np.testing.assert_allclose(batch.advantages[place], advantages[i], atol=1e-6)
      texts = [decode(row[:n]) for row, n in zip(tokens, lengths, strict=True)]
      said = [[q or "" for q in parse_response(text, K)] for text in texts]
      assert said == questions[i].tolist()


@pytest.mark.parametrize(("moment", "staleness"), [("stopped", 1), ("killed", 0)])
@pytest.mark.slow
def test_a_run_with_late_groups_goes_on(tmp_path, monkeypatch, moment, staleness):
  """Stopped while groups of step 1 are owed; killed a step after its checkpoint.

  Wrong: the groups that were in no step yet are lost, or asked again by the policy of
  the checkpoint; the batch that waits with staleness 1 in their place.
  """
  changes = {
    "optimizer.learning_rate": 3e-3,
    "optimizer.warmup_steps": 1,
    "rollout.staleness": staleness,
  }
  whole, other = tmp_path / "whole", tmp_path / "other"
  train_late(whole, monkeypatch, **changes)

  def ends(step, run):
    if moment == "stopped" and step == 2:
      run.stop.ask("the test")
    if moment == "killed" and step == 3:
      raise Crash

  with pytest.raises(hosts.Stopped if moment == "stopped" else Crash):
    train_late(other, monkeypatch, before=ends, **changes)
  monkeypatch.undo()
  if moment == "stopped":
    assert records.steps(other, "grpo") == [0, 1]
  train_late(other, monkeypatch, **changes)
  volatile = ["run_id", "wall_time"]
  for split in ("train", "heldout"):
    one, two = (
      records.read(folder, "grpo", split).drop(columns=volatile)
      for folder in (whole, other)
    )
    assert one.equals(two)
  model = "questioner_hf/model.safetensors"
  assert (whole / model).read_bytes() == (other / model).read_bytes()
  one, two = (records.read_measurements(folder, "grpo") for folder in (whole, other))
  times = [name for name in one if name.startswith("time/")]
  assert one.drop(columns=times).equals(two.drop(columns=times))
  assert list(one["rollout/late"]) == [1, 2, 1, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_agree_on_what_is_late(tmp_path):
  """Here time decides, so that no two runs are alike; these things hold in each.

  Wrong: a process that waits for one with another number of groups, memories that
  differ, a group that was late on one process and trained on by the other.
  """
  flags = (
    "--config.methods=('grpo',)",
    f"--config.steps={STEPS}",
    "--config.rollout.late=0.1",
    f"--config.roles.verifier=scripted://{runs.ROOT / 'tests' / 'players.py'}"
    ":slow_verdict",
  )
  folder = hosts_test.run(tmp_path, 2, *flags)
  rows = records.read(folder / "run", "grpo")
  assert len(rows) == STEPS * B * G * K
  assert not rows.duplicated(["step", "image_id", "response_index", "slot"]).any()
  assert not rows.duplicated(["group_id", "response_index", "slot"]).any()
  asked = rows["group_id"].str[:6].astype(int)
  assert (rows["step"] - asked).isin([0, 1]).all()
  late = rows[rows["step"] > asked].groupby(asked)["group_id"].nunique()
  numbers = records.read_measurements(folder / "run", "grpo")["rollout/late"]
  assert numbers[numbers > 0].to_dict() == late.to_dict()
  assert late.sum() > 0
  config = runs.small_config()
  found = recompute_rewards(
    rows,
    Embedder().embed,
    config.reward.terms,
    (config.reward.lambda_scale, config.reward.lambda_penalty),
    config.reward.prefix_length,
  )
  np.testing.assert_allclose(rows["reward"].astype(float), found["reward"], atol=1e-6)
  one, two = ((folder / f"banks-{i}").read_text() for i in range(2))
  assert one == two and len(one.splitlines()) == STEPS


def test_a_bad_deadline_is_refused():
  with pytest.raises(ValueError, match="rollout.late is -1.0; it is seconds"):
    checks.check(runs.small_config(**{"rollout.late": -1.0}))
