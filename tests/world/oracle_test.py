"""The oracle against the brute force: who is right about any question, any scene.

A wrong oracle would differ in some of these: which criterion fails first, near ties
at the margins, an anchor that counts itself, a parser that binds a relation to the
wrong noun, an attribute that the question gives away.
"""

import collections
import dataclasses
import random
import re

import pytest

from fmd_jax.types import CRITERIA
from fmd_jax.world.invalid import INVALID_KINDS, sample_invalid
from fmd_jax.world.oracle import judge, judge_question
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import VALUES, Object, Scene, sample_scene
from fmd_jax.world.skills import SKILLS
from tests.world import bruteforce

_EXTREMES = ("leftmost", "rightmost", "topmost", "bottommost")
_RELATIONS = ("left of", "to the right of", "above", "under", "closest to")
_NOUNS = ("object", "thing", "item", *VALUES["shape"])
# Words that a perturbed question may get in place of one of their own line.
_KIN = [
  *VALUES.values(),
  [f"{word}s" for word in _NOUNS],
  _NOUNS,
  _EXTREMES,
  ("a", "an", "the", "any"),
  ("above", "below", "under"),
  ("left", "right"),
  ("larger", "smaller", "bigger"),
  ("what", "which", "how"),
  ("is", "are", "does", "do"),
  ("picture", "image", "scene", "sky"),
  ("and", "or", "not"),
]
# Question marks, relations and phrases that the sampler never puts together.
_FUZZ = (
  "What color is NP?",
  "Is NP REL NP?",
  "Is there a red DB REL NP?",
  "Are any DBs REL NP?",
  "How many DBs are REL NP?",
  "Is NP large?",
  "Is NP a star?",
  "Are NP and NP the same size?",
  "Is NP smaller than NP?",
  "What letter is on NP?",
  "Does NP point up?",
  "Where is NP?",
  "How many DBs are not small?",
  "Are there more DBs than DBs?",
  "Where does NP point?",
  "Why is NP red?",
  "Is there an DB?",
)


def first_failing(verdict):
  failing = [name for name in CRITERIA if not getattr(verdict, name)]
  # A text that can't be read fails everything, any other question one thing.
  assert len(failing) in (0, 1, 4)
  assert (len(failing) == 4) == (not verdict.grammatical)
  return failing[0] if failing else None


def compare(pairs):
  """Judges (text, scene) pairs twice.

  Returns:
    How often each criterion fails (None: valid) and the disagreements.
  """
  tally, wrong = collections.Counter(), []
  for text, scene in pairs:
    verdict = judge_question(text, scene)
    ours = (first_failing(verdict), verdict.answer)
    theirs = tuple(bruteforce.judge(text, scene))
    tally[ours[0]] += 1
    if ours != theirs:
      wrong.append((text, ours, theirs, scene))
  return tally, wrong


def scenes(rng, n):
  return [sample_scene(rng) for _ in range(n)]


def crowd(rng):
  """A scene at the margins: rows, columns and twins that `sample_scene` avoids."""
  placed: list[Object] = []
  for item in sample_scene(rng).objects:
    if placed and rng.random() < 0.7:
      near = rng.choice(placed)
      step = rng.choice((0.0, 5.9, 6.0, 7.9, 8.0, 8.1, rng.uniform(0, 20)))
      x, y = rng.choice(((near.x + step, item.y), (item.x, near.y - step)))
      item = dataclasses.replace(item, x=round(x, 1), y=round(y, 1))
    if rng.random() < 0.1:
      middle = round(56 + rng.choice((-6.1, -6.0, -5.9, 0.0, 5.9, 6.0, 6.1)), 1)
      item = dataclasses.replace(item, x=middle)
    if placed and rng.random() < 0.3:
      name = rng.choice(("size", "color", "pattern"))
      item = dataclasses.replace(item, **{name: getattr(placed[0], name)})
    placed.append(item)
  return Scene(tuple(placed), 220, 0)


def description(rng):
  words = [rng.choice(VALUES[n]) for n in ("color", "size") if rng.random() < 0.2]
  words.append(rng.choice(_NOUNS if rng.random() < 0.5 else _NOUNS[:3]))
  return " ".join(words)


def reference(rng, depth=0):
  words = f"the {description(rng)}"
  if rng.random() < 0.25:
    words = words.replace("the", f"the {rng.choice(_EXTREMES)}")
  elif rng.random() < 0.06:
    words += f" with the letter {rng.choice('HLTVXZ')}"
  if depth < 3 and rng.random() < 0.35:
    words += f" {rng.choice(_RELATIONS)} {reference(rng, depth + 1)}"
  return words


def fuzz(rng):
  fillers = {
    "NP": lambda: reference(rng),
    "REL": lambda: rng.choice(_RELATIONS[:4]),
    "DB": lambda: description(rng),
  }
  form = rng.choice(_FUZZ)
  return re.sub("NP|REL|DB", lambda slot: fillers[slot.group()](), form)


def perturb(rng, text):
  """Changes one or two words, or the punctuation."""
  words = text[:-1].split()
  for _ in range(rng.choice((1, 1, 2))):
    i = rng.randrange(len(words))
    kin = [line for line in _KIN if words[i].lower() in line]
    if kin and rng.random() < 0.8:
      words[i] = rng.choice(rng.choice(kin))
    else:
      change = rng.choice(("drop", "double", "comma", "shout"))
      if change == "drop" and len(words) > 1:
        del words[i]
      elif change == "double":
        words.insert(i, words[i])
      elif change == "comma":
        words[i] += ","
      else:
        words[i] = words[i].upper()
  return " ".join(words) + rng.choice(("?",) * 12 + (" ?", "", ".", "??", "? "))


def valid_questions(rng, skill, n):
  """`n` valid questions filed under a skill, each with its scene."""
  found = []
  while len(found) < n:
    scene = sample_scene(rng)
    asked = sample_question(rng, scene, {skill: 1.0, "counting_all": 0.1})
    if asked.verdict.skills[0] == skill:
      found.append((asked.text, scene))
  return found


def expect_agreement(pairs, **at_least):
  tally, wrong = compare(pairs)
  assert not wrong, f"{len(wrong)} of {len(pairs)}: {wrong[:3]}"
  for criterion, count in at_least.items():
    assert tally[None if criterion == "valid" else criterion] >= count, tally


@pytest.mark.parametrize("skill", SKILLS)
def test_valid_questions_agree_by_skill(skill):
  """Wrong: another answer, or a question that the brute force rejects."""
  pairs = valid_questions(random.Random(skill), skill, 500)
  expect_agreement(pairs, valid=500)


@pytest.mark.parametrize("kind", INVALID_KINDS)
def test_invalid_questions_agree_by_kind(kind):
  """Wrong: a bad question that passes, or that fails for another reason."""
  rng = random.Random(kind)
  pairs = [(sample_invalid(rng, s, kind).text, s) for s in scenes(rng, 500)]
  criterion = {
    "ungrammatical": "grammatical",
    "compound": "atomic",
    "subjective": "objective",
    "ambiguous": "objective",
  }.get(kind, "grounded")
  expect_agreement(pairs, **{criterion: 500})


def test_questions_about_another_scene_agree():
  """Wrong: absent and ambiguous references, or ties, told apart differently."""
  rng = random.Random(2)
  some = scenes(rng, 900)
  texts = [sample_question(rng, s).text for s in some for _ in range(4)]
  pairs = [(text, some[rng.randrange(900)]) for text in texts for _ in range(2)]
  expect_agreement(pairs, valid=2000, grounded=2000, objective=500)


def test_questions_about_crowded_scenes_agree():
  """Wrong: `<=` for `<` at a margin, or a tie further out that counts."""
  rng = random.Random(3)
  texts = [sample_question(rng, sample_scene(rng)).text for _ in range(5000)]
  pairs = [(text, crowd(rng)) for text in texts]
  expect_agreement(pairs, valid=1000, grounded=1000, objective=300)


def test_perturbed_questions_agree():
  """Wrong: a word that slips through, or a good question that doesn't."""
  rng = random.Random(4)
  pairs = []
  for scene in scenes(rng, 1500):
    for _ in range(4):
      pairs.append((perturb(rng, sample_question(rng, scene).text), scene))
  expect_agreement(pairs, valid=400, grammatical=1500, grounded=300, objective=60)


def test_made_up_questions_agree():
  """Wrong: nested references bound to the wrong noun, or resolved outside in."""
  rng = random.Random(5)
  pairs = [
    (fuzz(rng), crowd(rng) if rng.random() < 0.5 else sample_scene(rng))
    for _ in range(8000)
  ]
  expect_agreement(pairs, valid=400, grammatical=300, grounded=1500, objective=1000)


def thing(shape, color, x, y, size="small", **more):
  return Object(shape=shape, color=color, size=size, pattern="solid", x=x, y=y, **more)


SCENE = Scene(
  (
    thing("circle", "red", 20.0, 20.0, letter="X", size="large"),
    thing("square", "red", 28.0, 80.0),
    thing("arrow", "blue", 90.0, 27.9, direction="up"),
    thing("star", "blue", 90.0, 90.0, letter="T", size="large"),
    thing("star", "green", 56.0, 56.0),
  ),
  220,
  0,
)


@pytest.mark.parametrize(
  ("text", "failing", "answer"),
  [
    ("What color is the square?", None, "red"),
    ("What color is the diamond?", "grounded", None),
    ("What color is the star?", "objective", None),
    ("What color is the red square?", "grounded", None),
    ("Is the circle left of the square?", None, "yes"),  # 8.0 pixels apart
    ("Is the circle above the arrow?", "objective", None),  # 7.9
    ("What color is the leftmost object?", None, "red"),
    ("What color is the leftmost star?", None, "green"),
    ("What color is the topmost object?", "objective", None),
    ("What color is the leftmost circle?", "objective", None),
    ("What color is the leftmost diamond?", "grounded", None),
    ("What shape is the object nearest to the square?", None, "star"),
    ("What color is the star nearest to the circle?", None, "green"),
    ("What color is the star nearest to the green star?", None, "blue"),
    ("Where is the green star?", "objective", None),
    ("Where is the blue star?", None, "bottom right"),
    ("What letter is on the circle?", None, "X"),
    ("What letter is on the square?", "grounded", None),
    ("What letter is on the circle with the letter X?", "grounded", None),
    ("Which way does the arrow point?", None, "up"),
    ("Which way does the circle point?", "grounded", None),
    ("Is the red circle left of the red circle?", "objective", None),
    ("Are the circle and the square the same color?", None, "yes"),
    ("Are the red circle and the square the same color?", None, "yes"),
    ("Are the red circle and the red square the same color?", "grounded", None),
    ("What is the most common color?", "objective", None),
    ("What is the most common shape?", None, "star"),
    ("Are there more stars than squares?", None, "yes"),
    ("Are there more stars than blue things?", None, "no"),
    ("Are there more stars than stars?", "objective", None),
    ("How many objects are not red?", None, "3"),
    ("How many red objects are not blue?", "grounded", None),
    ("How many objects are right of the square?", None, "3"),
    ("How many objects are above the arrow?", "objective", None),
    ("Is there a diamond?", None, "no"),
    ("Is there a diamond below the square?", None, "no"),
    ("What color is the circle and where is the square?", "atomic", None),
    ("What is the capital of France?", "grounded", None),
    ("Is the circle beautiful?", "objective", None),
    ("Color the what is?", "grammatical", None),
  ],
)
def test_questions_judged_by_hand(text, failing, answer):
  """Wrong: both oracles of one mind, and of another than a person."""
  verdict = judge_question(text, SCENE)
  assert (first_failing(verdict), verdict.answer) == (failing, answer)
  assert tuple(bruteforce.judge(text, SCENE)) == (failing, answer)


def test_every_kind_of_invalid_question_exists_on_every_scene():
  """Wrong: no end, on two objects that have nothing, or everything, in common."""
  rng = random.Random(6)
  unlike = Scene((thing("circle", "red", 20.0, 20.0),), 220, 0)
  other = Object("square", "blue", "large", "striped", 80.0, 80.0)
  unlike = dataclasses.replace(unlike, objects=(*unlike.objects, other))
  twin = dataclasses.replace(other, x=20.0, y=20.0)
  for scene in (unlike, dataclasses.replace(unlike, objects=(other, twin))):
    for kind in INVALID_KINDS:
      asked = sample_invalid(rng, scene, kind)
      assert not asked.verdict.valid
      expect_agreement([(asked.text, scene)])


def test_judges_reply_names_every_criterion():
  """Wrong: a missing key, a rationale of two lines, a bad question answered right."""
  reply = judge("What color is the square?", "It is red.", SCENE)
  assert list(reply) == [*CRITERIA, "correct"]
  assert all(entry["ok"] is True for entry in reply.values())
  assert all("\n" not in entry["why"] and entry["why"] for entry in reply.values())
  assert reply["correct"]["why"] == "the answer is red"
  assert not judge("What color is the square?", "Blue.", SCENE)["correct"]["ok"]
  bad = judge("What color is the star?", "blue", SCENE)
  assert {name: entry["ok"] for name, entry in bad.items()} == {
    "grammatical": True,
    "atomic": True,
    "grounded": True,
    "objective": False,
    "correct": False,
  }
  assert "2 objects" in bad["objective"]["why"]
