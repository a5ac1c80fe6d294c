"""Responses, well-formed and hostile, and the questions they hold."""

import itertools
import time

import numpy as np
import pytest

from fmd_jax import inference
from fmd_jax.models.processor import Processor
from fmd_jax.questioner import parsing
from tests.models import tiny


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
  start = time.thread_time()
  assert parsing.parse_response(text, 4) == [None] * 4
  assert time.thread_time() - start < 1


# token_slots. A fake byte-level tokenizer: a token is its bytes, 0 is the end token.


def spelled(pieces, k):
  """The slots of one response, given as the bytes of its tokens."""
  vocabulary = [b"", *pieces]

  def decode(ids):
    return b"".join(vocabulary[i] for i in ids).decode(errors="replace")

  # Then the end token, and whatever stands in the padding.
  ids = [*range(1, len(vocabulary)), 0, *range(len(vocabulary))]
  got = parsing.token_slots(np.array([[ids]]), np.array([[len(vocabulary)]]), decode, k)
  assert got.shape == (1, 1, len(ids))
  assert set(got[0, 0, len(pieces) :]) == {-1}
  return list(got[0, 0, : len(pieces)])


ONE, END = b"<response_1>", b"</response_1>"


# The comment of each case says what a careless implementation would give.
@pytest.mark.parametrize(
  "pieces,k,expected",
  [
    # Tags count as their slot's, or text between slots as the last one's.
    (
      [b"So ", ONE, b"a", b"?", END, b"\n", b"<response_2>", b"b", b"</response_2>"],
      2,
      [-1, -1, 0, 0, -1, -1, -1, 1, -1],
    ),
    # A tag looked for among whole tokens is not found.
    (
      [b"<", b"response", b"_", b"1", b">", b"a", b"?", b"</", b"response_1", b">"],
      1,
      [-1, -1, -1, -1, -1, 0, 0, -1, -1, -1],
    ),
    # A token across the border is nobody's, or by where it starts the tag's.
    (
      [b"<response_1", b">What", b" is", b" it", b"?</", b"response_1>"],
      1,
      [-1, 0, 0, 0, 0, -1],
    ),
    # One across two tags spells no question; one across all of it, the first.
    (
      [b"<response_1>a</response_1", b"><", b"response_2>b</response_2>"],
      2,
      [0, -1, 1],
    ),
    ([b"<response_1>a</response_1><response_2>b", b"</response_2>"], 2, [0, -1]),
    # Half a character decodes to a character of its own: positions in the text of
    # the whole are not the tokens' any more.
    (
      [ONE, b"\xe5", b"\xa4", b"\xa7", b"\xf0\x9f", b"\x8d\x8e", b"?", END, b"x"],
      1,
      [-1, 0, 0, 0, 0, 0, 0, -1, -1],
    ),
    # A slot that is closed nowhere, or that nobody asked for, is no question.
    ([ONE, b"a", b"<response_2>", b"b", b"</response_2>"], 2, [-1, -1, -1, 1, -1]),
    ([b"<response_3>", b"c", b"</response_3>"], 2, [-1, -1, -1]),
    # The second of two counts, or a draft made while thinking.
    ([ONE, b"a", END, ONE, b"b", END], 1, [-1, 0, -1, -1, -1, -1]),
    ([ONE, b"a", END, b"</think>", ONE, b"b", END], 1, [-1, -1, -1, -1, -1, 0, -1]),
    # What `clean` takes out of a question was still written inside it.
    ([ONE, b" ", b"a", b"</response_2>", b"b", END], 2, [-1, 0, 0, 0, 0, -1]),
    ([], 2, []),
  ],
)
def test_token_slots(pieces, k, expected):
  assert spelled(pieces, k) == expected


def responses(number, seed):
  """Random responses: mostly tags in order, sometimes anything after anything."""
  rng = np.random.default_rng(seed)
  tags = [f"<{end}response_{i}>" for i in (1, 2, 3, 10) for end in ("", "/")]
  words = ["What", " is", " the red circle?", "\n", " 大", "é", "<", ">", "</think>"]
  for _ in range(number):
    if rng.random() < 0.5:
      inner = ["".join(rng.choice(words[:-1], rng.integers(0, 5))) for _ in range(2)]
      yield f"<response_1>{inner[0]}</response_1><response_2>{inner[1]}</response_2>"
    else:
      yield "".join(rng.choice(tags + words, rng.integers(0, 16)))


def byte_slots(text, k):
  """The slot of each byte of a text, or -1: the definition, one byte at a time."""
  out = []
  spans = parsing.slot_spans(text, k)
  for i, character in enumerate(text):
    own = [s for s, span in enumerate(spans) if span and span[0] <= i < span[1]]
    out += len(character.encode()) * (own or [-1])
  return out


def test_token_slots_against_bytes():
  # Tags of several tokens, tokens that straddle, characters of several tokens: the
  # bytes of each token, counted by hand, say what it spells.
  tokenizer = tiny.tokenizer()
  straddling = 0
  for text in responses(200, seed=0):
    encoded = tokenizer.encode(text, add_special_tokens=False)
    wanted, at = [], 0
    slots = byte_slots(text, 2)
    for token in encoded.tokens:  # a letter of a byte-level token is a byte
      own = slots[at : at + len(token)]
      at += len(token)
      wanted.append(next((s for s in own if s >= 0), -1))
      straddling += len(set(own)) > 1
    assert at == len(slots)
    ids = np.array(encoded.ids, int).reshape(1, 1, -1)
    got = parsing.token_slots(ids, np.array([[ids.size]]), tokenizer.decode, 2)
    assert got[0, 0].tolist() == wanted, text
  assert straddling


def test_tokens_of_a_slot_spell_its_question():
  # On the testbed's tokenizer, whose tags are one token; also over random tokens,
  # bytes that make no character among them.
  processor = Processor.from_folder(
    inference.checkpoint_folder("hf://testbed/questioner")
  )
  rng = np.random.default_rng(1)
  allowed = np.setdiff1d(np.arange(processor.vocab_size), processor.special_ids)
  allowed = allowed.tolist()
  tags = [i for i in allowed if "response_" in processor.decode([i])]
  assert tags
  rows = [processor.tokens(text) for text in responses(100, seed=2)]
  for _ in range(100):
    groups = rng.choice(allowed, (6, 4)), rng.choice(tags, (6, 1))
    rows.append(np.concatenate(groups, 1).reshape(-1).tolist())
  found = 0
  for ids in rows:
    tokens = np.array(ids, int).reshape(1, 1, -1)
    lengths = np.array([[len(ids)]])
    slots = parsing.token_slots(tokens, lengths, processor.decode, 4)[0, 0]
    for slot, question in enumerate(parsing.parse_response(processor.decode(ids), 4)):
      own = list(itertools.compress(ids, slots == slot))
      # Off by one token, or by one slot, and another text comes out.
      assert (parsing.clean(processor.decode(own)) or None) == question
      found += question is not None
  assert found > 50
