"""Responses, well-formed and hostile, and the questions they hold."""

import time

import pytest

from fmd_jax.questioner import parsing


# The comment of each case says what a careless parser would give.
@pytest.mark.parametrize(
  "text,k,expected",
  [
    ("<response_1>What is red?</response_1>", 1, ["What is red?"]),
    # Order of the tags, not of their numbers.
    (
      "<response_2>b?</response_2> so <response_1> a? </response_1>",
      2,
      ["a?", "b?"],
    ),
    # Extra slots shift or lengthen the list.
    ("<response_1>a</response_1><response_3>c</response_3>", 2, ["a", None]),
    # The last of two wins.
    ("<response_1>a</response_1><response_1>b</response_1>", 1, ["a"]),
    # An unclosed or crossed slot swallows what follows.
    ("<response_1>a <response_2>b</response_2>", 2, [None, "b"]),
    (
      "<response_1>a<response_2>b</response_2><response_1>c</response_1>",
      2,
      ["c", "b"],
    ),
    ("<response_1>a</response_2>", 2, [None, None]),
    # One text for two slots.
    ("<response_1>a<response_2>b</response_2></response_1>", 2, ["ab", None]),
    # Slot 1 matches slot 10 or 01.
    ("<response_10>a</response_10><response_01>b</response_01>", 1, [None]),
    # An empty question counts as a question.
    ("<response_1> \n </response_1>", 1, [None]),
    ("<response_1><|im_end|></response_1>", 1, [None]),
    ("What is red?", 1, [None]),
    ("", 2, [None, None]),
    # A newline ends the match.
    ("<response_1>What\n is\tred?</response_1>", 1, ["What is red?"]),
    # Drafts made while thinking are taken.
    (
      "<think><response_1>draft</response_1></think><response_1>a</response_1>",
      1,
      ["a"],
    ),
  ],
)
def test_slots(text, k, expected):
  assert parsing.parse_response(text, k) == expected


@pytest.mark.parametrize(
  "text",
  [
    "What<|im_end|> is<|vision_start|><|image_pad|> red?",
    "What</response> is <response_2>red?</response_7>",
    # One pass of stripping leaves a control token here, and a tag.
    "What is <|im_<|x|>end|>red?",
    "What is <resp<response_9>onse_1>red?",
  ],
)
def test_control_tokens_never_get_through(text):
  assert parsing.clean(text) == "What is red?"


def test_ordinary_angle_brackets_stay():
  # A greedy pattern would eat the text between < and >.
  assert parsing.clean("Is 3 < 4 and 5 > 4 | x?") == "Is 3 < 4 and 5 > 4 | x?"


def test_spans_are_those_of_the_questions():
  text = "<response_1> a? </response_1><response_2>b</response_2>"
  spans = parsing.slot_spans(text, 3)
  assert [s and text[slice(*s)] for s in spans] == [" a? ", "b", None]


def test_a_hostile_response_takes_no_time():
  # Backtracking from each opening tag over the rest would be quadratic or worse.
  text = "".join(f"<response_{i % 3 + 1}>x" for i in range(2000))
  start = time.perf_counter()
  assert parsing.parse_response(text, 4) == [None] * 4
  assert time.perf_counter() - start < 0.5
