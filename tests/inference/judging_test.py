"""The verdict grammar: what is a verdict, and what is not."""

import json

import pytest

from fmd_jax.inference import judging

KEYS = ("grammatical", "atomic", "grounded", "objective", "correct")


def verdict(**wrong) -> dict:
  return {key: {"ok": key not in wrong, "why": f"{key}!"} for key in KEYS}


GOOD = json.dumps(verdict(correct=1))


@pytest.mark.parametrize(
  "text",
  [
    GOOD,
    f"  \n{GOOD}\n",
    json.dumps(verdict(correct=1), indent=2),
    f"<think>maybe {json.dumps(verdict())} or not</think>\n{GOOD}",
    f"{json.dumps(verdict())}</think>{GOOD}",
    f"The question {{is}} fine.\n{GOOD}",
    f"First: {json.dumps(verdict())}. No, rather: {GOOD}",
    f"```json\n{GOOD}\n```",
  ],
)
def test_a_verdict_is_the_object_at_the_end(text):
  # Wrong: the first object, or one inside the reasoning, is taken: `correct` is True.
  parsed = judging.parse(text)
  assert tuple(parsed) == KEYS
  assert [ok for ok, _ in parsed.values()] == [True] * 4 + [False]
  assert parsed["atomic"] == (True, "atomic!")


def changed(key, value) -> str:
  out = verdict()
  if value is None:
    del out[key]
  else:
    out[key] = value
  return json.dumps(out)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "yes",
    "null",
    "[]",
    "{}",
    f"{GOOD} I am sure.",
    f"{GOOD} {{",
    f"[{GOOD}]",
    f"<think>{GOOD}",
    f"{GOOD}</think>",
    GOOD[:-1],
    changed("atomic", None),
    changed("other", {"ok": True, "why": ""}),
    changed("atomic", True),
    changed("atomic", {"ok": "true", "why": ""}),
    changed("atomic", {"ok": 1, "why": ""}),
    changed("atomic", {"ok": True}),
    changed("atomic", {"ok": True, "why": None}),
    changed("atomic", {"ok": True, "why": "", "more": 1}),
    GOOD.replace('"atomic"', '"grammatical"', 1),
    GOOD[:-1] + ', "correct": {"ok": true, "why": ""}}',
    '{"a": ' + "[" * 100_000,
  ],
)
def test_anything_else_is_not_a_verdict(text):
  # Wrong: a lenient parser makes a reward of it (1 as true, a repeated key, …).
  with pytest.raises(ValueError, match="."):
    judging.parse(text)
