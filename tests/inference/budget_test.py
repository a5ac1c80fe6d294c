"""What a run may spend: it stops before a call too many, and goes on after a raise."""

import json

import pytest

from fmd_jax import inference
from fmd_jax.inference import Reply, Request

ASK = Request([{"role": "user", "content": "hi"}])


class Model:
  name, revision = "m", "1"

  def __init__(self, cached=()):
    self.asked, self._cached = 0, cached

  def generate(self, requests):
    self.asked += len(requests)
    return [
      Reply("x", prompt_tokens=1000, tokens=100, cached=i in self._cached)
      for i in range(len(requests))
    ]


def budgeted(path, model, **limits):
  limits = {"calls": 0, "usd": 0.0, "prices": {}} | limits
  ledger = inference.Ledger(path, **limits)
  return inference.BudgetedGenerator(model, "verifier", ledger)


def test_calls_stop_before_one_too_many_and_go_on_after_a_raise(tmp_path):
  # Wrong: a call over the limit is paid for; a restart forgets what was spent.
  path, model = tmp_path / "spending.json", Model()
  first = budgeted(path, model, calls=10)
  assert inference.identity(first) == "m@1"
  first.generate([ASK] * 6)
  with pytest.raises(inference.BudgetError, match="is 10: 6 calls are made .* next 5"):
    first.generate([ASK] * 5)
  assert model.asked == 6
  with pytest.raises(inference.BudgetError):
    budgeted(path, model, calls=10).generate([ASK] * 5)
  raised = budgeted(path, model, calls=11)
  assert len(raised.generate([ASK] * 5)) == 5
  assert json.loads(path.read_text())["verifier"]["calls"] == 11


def test_replies_from_the_cache_are_free(tmp_path):
  path = tmp_path / "spending.json"
  budgeted(path, Model(cached=(0, 2))).generate([ASK] * 4)
  assert json.loads(path.read_text())["verifier"] == {
    "calls": 2,
    "prompt_tokens": 2000,
    "tokens": 200,
    "usd": 0,
  }


def test_dollars_are_foreseen_by_what_calls_cost_so_far(tmp_path):
  # A call costs 1000 * 2 / 1e6 + 100 * 10 / 1e6 = 0.003 dollars.
  path, model = tmp_path / "spending.json", Model()
  prices = {"verifier": (2.0, 10.0)}
  paid = budgeted(path, model, usd=0.05, prices=prices)
  paid.generate([ASK] * 10)
  assert json.loads(path.read_text())["verifier"]["usd"] == pytest.approx(0.03)
  with pytest.raises(inference.BudgetError, match="0.0300 are spent .* about 0.0300"):
    paid.generate([ASK] * 10)
  paid.generate([ASK] * 5)
  with pytest.raises(ValueError, match="prices are all 0"):
    budgeted(path, model, usd=1.0, prices={"verifier": (0.0, 0.0)})


def test_what_came_before_a_failure_is_counted(tmp_path):
  class Breaks(Model):
    def stream(self, requests):
      yield 0, Reply("x")
      raise inference.InferenceError("gone")

  path = tmp_path / "spending.json"
  model = budgeted(path, Breaks(), calls=4)
  for _ in range(3):
    with pytest.raises(inference.InferenceError, match="gone"):
      model.generate([ASK] * 2)
  # Wrong: the reserved second call of each batch stays reserved for ever.
  assert json.loads(path.read_text())["verifier"]["calls"] == 3
