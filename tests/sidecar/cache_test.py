"""Replies on disk: what determines a reply is in its key, and nothing else is."""

import dataclasses
import types

import pytest

from fmd_jax import inference
from fmd_jax.inference import Reply, Request
from fmd_jax.sidecar import cache

ASK = Request(
  [{"role": "user", "content": "hi"}], (b"image",), {"question": "q"}, seed=1
)


class Model:
  name, revision, settings = "m", "1", "fp32"

  def __init__(self, concurrent=False, reply=lambda request: Reply("x", tokens=3)):
    self.batches, self.concurrent, self._reply = [], concurrent, reply

  def stream(self, requests):
    self.batches.append(list(requests))
    for index, request in enumerate(requests):
      yield index, self._reply(request)

  def generate(self, requests):
    return [reply for _, reply in self.stream(requests)]


@pytest.fixture
def kept(tmp_path):
  return cache.open_folder(tmp_path / "replies", 1.0)


def test_a_second_ask_is_free_also_in_another_process(kept, tmp_path):
  model = Model()
  first = cache.CachedGenerator(model, "verifier", kept).generate([ASK])
  assert first == [Reply("x", tokens=3)]
  again = cache.open_folder(tmp_path / "replies", 1.0)
  second = cache.CachedGenerator(model, "verifier", again).generate([ASK])
  assert second == [Reply("x", tokens=3, cached=True)]
  assert len(model.batches) == 1


@pytest.mark.parametrize(
  "change",
  [
    {"messages": [{"role": "user", "content": "ho"}]},
    {"images": (b"other",)},
    {"images": ()},
    {"fields": {"question": "p"}},
    {"max_tokens": 65},
    {"temperature": 0.5},
    {"schema": {"type": "object"}},
  ],
)
def test_what_determines_a_reply_is_in_the_key(change):
  model = Model()
  other = dataclasses.replace(ASK, **change)
  assert cache.key("verifier", model, ASK) != cache.key("verifier", model, other)


def test_model_role_and_settings_are_in_the_key():
  keys = {cache.key("verifier", Model(), ASK), cache.key("evaluator", Model(), ASK)}
  for change in ({"name": "n"}, {"revision": "2"}, {"settings": "bf16"}):
    values = {"name": "m", "revision": "1", "settings": "fp32"} | change
    keys.add(cache.key("verifier", types.SimpleNamespace(**values), ASK))
  assert len(keys) == 5


def test_a_seed_counts_where_it_has_an_effect():
  # Wrong: G samples of one prompt get one reply; or a greedy reply is paid for again in
  # every step, because the step is in the seed.
  model = Model()

  def name(**change):
    return cache.key("verifier", model, dataclasses.replace(ASK, **change))

  assert name(seed=2) == name(seed=3, sample=1) == name()
  hot = {
    name(temperature=1.0, seed=seed, sample=sample)
    for seed in (1, 2)
    for sample in (0, 1)
  }
  assert len(hot) == 4


def test_samples_of_one_prompt_are_kept_one_by_one(kept):
  draws = iter("abc")
  model = Model(reply=lambda request: Reply(next(draws)))
  cached = cache.CachedGenerator(model, "questioner", kept)
  hot = dataclasses.replace(ASK, temperature=1.0)
  assert [r.text for r in inference.generate_distinct(cached, [hot] * 2)] == ["a", "b"]
  more = inference.generate_distinct(cached, [hot] * 3)
  assert [(r.text, r.cached) for r in more] == [
    ("a", True),
    ("b", True),
    ("c", False),
  ]


def test_errors_are_asked_again(kept):
  model = Model(reply=lambda request: Reply("", error="busy"))
  cached = cache.CachedGenerator(model, "verifier", kept)
  for _ in range(2):
    assert cached.generate([ASK])[0].error == "busy"
  assert len(model.batches) == 2


def test_a_batch_that_was_cut_off_is_asked_again_whole(kept):
  # Wrong: half a batch is kept, and the rest makes another batch, with other roundings.
  others = [dataclasses.replace(ASK, images=(bytes([i]),)) for i in range(3)]
  model = Model()
  stream = cache.CachedGenerator(model, "answerer", kept).stream(others)
  next(stream)
  stream.close()
  cache.CachedGenerator(model, "answerer", kept).generate(others)
  assert [len(batch) for batch in model.batches] == [3, 3]
  # One call each: what came was paid for.
  paid = Model(concurrent=True)
  stream = cache.CachedGenerator(paid, "verifier", kept).stream(others)
  next(stream)
  next(stream)
  stream.close()
  cache.CachedGenerator(paid, "verifier", kept).generate(others)
  assert [len(batch) for batch in paid.batches] == [3, 1]
