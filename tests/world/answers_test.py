"""Free-text answers, judged both ways: every right one and no wrong one.

A judge that looks for the truth as a substring would pass "not red", "red or blue"
and "13"; one that compares whole strings would fail nearly all the rest.
"""

import pytest

from fmd_jax.world.answers import answer_type, canonical
from fmd_jax.world.grammar import parse
from fmd_jax.world.oracle import judge_answer, judge_question
from fmd_jax.world.scenes import Object, Scene

CIRCLE = Object("circle", "red", "large", "solid", 25.0, 25.0, letter="X")
STAR = Object("star", "blue", "small", "striped", 85.0, 85.0)
ARROW = Object("arrow", "blue", "small", "dotted", 85.0, 25.0, direction="left")
SCENE = Scene((CIRCLE, STAR, ARROW), 220, 0)

# question, truth, right answers, wrong answers; "|" between answers
TABLE = {
  "color": (
    "What color is the circle?",
    "red",
    "red|Red.|RED|it is red|It's red.|The circle is red.|The color is red, bright red."
    "|**Red**|dark red|The answer is: red|a red circle|It’s red",
    "|blue|not red|red or blue|It isn't red.|It isn’t red.|neither red nor blue|reddish"
    "|I cannot tell if it is red|yes|maroon|infrared|red-blue|It doesn't look red",
  ),
  "violet": ("What color is the star?", "blue", "blue|Blue!|light-blue", "violet|blu"),
  "shape": (
    "What shape is the red object?",
    "circle",
    "circle|A circle.|It's a circle|circle-shaped|one of the circles",
    "|square|a circle and a square|not a circle|circular saw|rhombus|it is an object",
  ),
  "size": (
    "What size is the circle?",
    "large",
    "large|Big.|It is the big one|The circle is large.",
    "|small|little|not large|large or small|neither big nor small|largest",
  ),
  "pattern": (
    "What pattern is the circle?",
    "solid",
    "solid|It is filled.|a solid fill|Solid red",
    "|striped|not solid|hollow|It is not filled|solid or dotted|filled with stripes",
  ),
  "stripes": (
    "How is the star filled?",
    "striped",
    "striped|stripes|It has stripes.|It is filled with stripes.|Filled with stripes",
    "filled|dots|filled with dots|no idea|It is not filled with stripes",
  ),
  "dots": ("What pattern is the arrow?", "dotted", "dots|polka-dotted", "dot com"),
  "count": (
    "How many objects are there?",
    "3",
    "3|three|Three.|The answer is 3.|There are three objects.|3 objects|03|three (3)",
    "|13|2|two|33|3 or 4|two or three|not 3|3.5|1, 2, 3|many|threefold|There aren't 3",
  ),
  "zero": (
    "How many diamonds are there?",
    "0",
    "0|zero|None.|none at all|There are 0 diamonds",
    "|1|one|O|zero or one|not zero|not none",
  ),
  "yes": (
    "Is there a star?",
    "yes",
    "yes|Yes.|Yes, there is a star.|YES!|yeah|True|It is true.|Yes, it is not a circle"
    "|That isn't false",
    "|no|No, there is not.|yes or no|not true|maybe|Yesterday|There is not"
    "|That is not true.|It isn’t true",
  ),
  "no": (
    "Is there a diamond?",
    "no",
    "no|No.|No, there is not.|No, there isn't.|nope|There is no diamond.|False"
    "|That is not true.|It isn't true.|no, not at all",
    "|yes|yes and no|know|nothing|There is a diamond|not|not false|none of it, yes",
  ),
  "letter": (
    "What letter is on the circle?",
    "X",
    "X|x|x.|The letter X.|It's an X.|the letter is x|A big X|IT'S X|'X'|I think X",
    "|T|Z|X or Z|not X|It isn't X|xylophone|the circle|It's unclear|X and Q|Exit",
  ),
  "direction": (
    "Which way does the arrow point?",
    "left",
    "left|Left.|to the left|It points left.|leftward|toward the left side",
    "|right|up|left or right|not left|up-left|leftover|up and to the left",
  ),
  "quadrant": (
    "Where is the circle?",
    "top left",
    "top left|Top-left.|upper left|the upper-left corner|left top"
    "|In the top left corner|at the top, on the left",
    "|top|left|top right|bottom left|top left or top right|top left or bottom left"
    "|not top left|center|lower left|topmost left",
  ),
}
CASES = [
  (question, truth, text, right)
  for question, truth, good, bad in TABLE.values()
  for right, texts in ((True, good), (False, bad))
  for text in texts.split("|")
]


@pytest.mark.parametrize(("question", "truth", "text", "right"), CASES)
def test_free_text_is_judged(question, truth, text, right):
  """Wrong: a substring or whole-string match, or a negation that goes unseen."""
  verdict = judge_question(question, SCENE)
  assert verdict.answer == truth
  assert judge_answer(verdict, text) == right


def test_contractions_are_no_letters():
  """Wrong: the "t" of "isn't" read as the letter T, the "a" or "I" as a letter."""
  for text in ("It isn't clear", "It isn’t clear", "I can't say", "don't know", "A, I"):
    assert canonical(text, "letter") is None
  assert canonical("It's a T", "letter") == "T"
  assert canonical("I'd say it's T", "letter") == "T"


def test_no_answer_to_an_invalid_question_is_right():
  """Wrong: an ambiguous reference whose candidates agree counts as answered."""
  verdict = judge_question("What color is the small object?", SCENE)
  assert not verdict.valid
  assert not judge_answer(verdict, "blue")


@pytest.mark.parametrize(
  ("question", "kind"),
  [
    ("Is the circle red?", "yes_no"),
    ("Is there a circle?", "yes_no"),
    ("Does the arrow point up?", "yes_no"),
    ("Are there more stars than circles?", "yes_no"),
    ("Is the circle larger than the star?", "yes_no"),
    ("Are the circle and the star the same size?", "yes_no"),
    ("Is the circle above the star?", "yes_no"),
    ("How many stars are there?", "count"),
    ("How many stars are not red?", "count"),
    ("What letter is on the star?", "letter"),
    ("Where does the arrow point?", "direction"),
    ("Where is the star?", "quadrant"),
    ("What is the most common shape?", "shape"),
    ("How big is the star?", "size"),
    ("How is the star filled?", "pattern"),
  ],
)
def test_answer_types(question, kind):
  """Wrong: "is the circle red" expects a colour, so that "yes" is no answer."""
  assert answer_type(parse(question).program) == kind
