"""The evaluator: the same grammar, asked in its own role."""

import json

from fmd_jax import evaluator, prompts
from fmd_jax.inference import Reply
from fmd_jax.types import Answer, ImageExample, Question

KEYS = ("grammatical", "atomic", "grounded", "objective", "correct")


def test_it_asks_in_its_own_role(monkeypatch):
  # Wrong: the verifier's prompt, so that the two could never differ.
  roles, render = [], prompts.render
  monkeypatch.setattr(
    prompts, "render", lambda role, **kw: roles.append(role) or render(role, **kw)
  )

  class Judge:
    name, revision = "independent", ""

    def generate(self, requests):
      return [
        Reply(json.dumps({k: {"ok": True, "why": ""} for k in KEYS})) for _ in requests
      ]

  item = (ImageExample("i", b""), Question("i", 0, 0, "q"), Answer("a", "m"))
  verdict = evaluator.judge(Judge(), [item])[0]
  assert roles == ["evaluator"]
  assert (verdict.status, verdict.valid, verdict.model) == ("ok", True, "independent")
