"""Text <-> program, both ways, for every surface form."""

import collections
import math
import random
import re

import pytest

from fmd_jax.world import grammar, invalid, questions, templates
from fmd_jax.world.grammar import NOUNS, fill, parse, realise, references, sentence
from fmd_jax.world.invalid import INVALID_KINDS, sample_invalid
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.programs import Description, NounPhrase, Program
from fmd_jax.world.questions import ATTRIBUTES, prefix_counts, sample_question
from fmd_jax.world.scenes import DIRECTIONS, LETTERS, VALUES, sample_scene

RELATIONS = ("left", "right", "above", "below")


def some_description(rng):
  chosen = {n: rng.choice(VALUES[n]) for n in ATTRIBUTES if rng.random() < 0.4}
  if rng.random() < 0.15:
    chosen["letter"] = rng.choice(LETTERS)
  return Description(**chosen)


def some_phrase(rng, depth):
  kind = rng.choice(("plain", "plain", "extreme", "related"))
  if kind == "extreme":
    return NounPhrase(some_description(rng), rng.choice(("leftmost", "bottommost")))
  if kind == "related" and depth > 0:
    relation = rng.choice((*RELATIONS, "nearest"))
    anchor = some_phrase(rng, depth - 1)
    return NounPhrase(some_description(rng), None, relation, anchor)
  return NounPhrase(some_description(rng))


def program_for(template, rng):
  """A random program that the form can ask."""
  slots, fields = template.slots, dict(template.fixed)
  # "is the star left of the square left of the arrow" has two readings: the first
  # of two references stays plain.
  if "{NP}" in slots:
    fields["target"] = some_phrase(rng, 0 if "{R}" in slots else 2)
  if "{NP2}" in slots:
    fields["other"] = some_phrase(rng, 2)
  if slots & {"{D}", "{DB}", "{DS}"}:
    fields["described"] = some_description(rng)
  if "{DS2}" in slots:
    fields["described_other"] = some_description(rng)
  if "{R}" in slots:
    fields["relation"] = rng.choice(RELATIONS)
  if "{A}" in slots:
    fields["attribute"] = rng.choice(ATTRIBUTES)
  if "{V}" in slots:
    fields["attribute"] = rng.choice(("color", "pattern", "size"))
  if "{AV}" in slots:
    fields["attribute"] = "shape"
  if slots & {"{V}", "{AV}"}:
    fields["value"] = rng.choice(VALUES[fields["attribute"]])
  if "{DIR}" in slots:
    fields["value"] = rng.choice(DIRECTIONS)
  return Program(template.family, **fields)


@pytest.mark.parametrize(
  "template", templates.TEMPLATES, ids=lambda t: "_".join(t.words)
)
def test_every_form_reads_back_as_what_it_asks(template):
  """Wrong: an earlier form swallows the text, or a slot fills the wrong field."""
  rng = random.Random(repr(template.words))
  for _ in range(30):
    program = program_for(template, rng)
    text = sentence(fill(template, program, rng), rng, 0.3)
    reading = parse(text)
    assert reading is not None, text
    assert (reading.kind, reading.program) == ("question", program), text


def test_every_form_is_drawn(monkeypatch):
  """Wrong: a form that no program fits, or with a weight of nothing."""
  drawn = collections.Counter()

  def recorded(template, program, rng):
    drawn[template] += 1
    return fill(template, program, rng)

  monkeypatch.setattr(grammar, "fill", recorded)
  monkeypatch.setattr(invalid, "fill", recorded)
  rng = random.Random(0)
  for _ in range(1500):
    scene = sample_scene(rng)
    for _ in range(8):
      sample_question(rng, scene)
    for kind in ("off_image", "subjective"):
      sample_invalid(rng, scene, kind)
  every = {*templates.TEMPLATES, *templates.UNGROUNDED, *templates.SUBJECTIVE}
  assert len(every) > 150
  assert {" ".join(t.words) for t in every - set(drawn)} == set()


def test_drawn_questions_read_back():
  """Wrong: `realise` words a program in a way that `parse` takes for another."""
  rng = random.Random(1)
  for _ in range(1500):
    asked = sample_question(rng, sample_scene(rng))
    assert re.fullmatch(r"[A-Z][a-zA-Z ]*\?", asked.text)
    again = realise(asked.verdict.program, rng)
    assert parse(again).program == asked.verdict.program, again


def test_lead_ins_change_nothing_but_the_opener():
  """Wrong: a lead-in that is lost, kept as words, or changes what is asked."""
  plain = parse("What color is the star?")
  assert plain.opener == ""
  for lead in templates.LEADS:
    words = lead.replace("{PIC}", "scene")
    reading = parse(f"{words.capitalize()}, what color is the star?")
    assert (reading.opener, reading.program) == (lead, plain.program)
  assert parse("So now what color is the star?") is None
  assert parse("So?") is None


def test_articles():
  """Wrong: "a orange star" passes, or "an outlined star" is written with "a"."""
  for word in (*VALUES["color"], *VALUES["pattern"], *VALUES["size"], *NOUNS):
    good, bad = ("an", "a") if word[0] in "aeiou" else ("a", "an")
    rest = word if word in NOUNS else f"{word} star"
    assert parse(f"Is there {good} {rest}?") is not None
    assert parse(f"Is there {bad} {rest}?") is None
  program = Program("exist", described=Description(shape="star", pattern="outlined"))
  texts = {realise(program, random.Random(i)) for i in range(60)}
  assert any("an outlined star" in text for text in texts)
  assert not any("a outlined" in text for text in texts)
  assert parse("Is the star an arrow?").program.value == "arrow"
  assert parse("Is the star a arrow?") is None


SAME = "What color is the large star?"


@pytest.mark.parametrize(
  "text",
  [
    "what color is the large star?",
    "WHAT COLOR IS THE LARGE STAR?",
    "What  color is\tthe large star ?",
    " What color is the large star?\n",
    "What color is the, large star?",
    "What colour is the big star?",
    "So, what color is the large star?",
  ],
)
def test_case_commas_spaces_and_synonyms_do_not_matter(text):
  """Wrong: a good question is ungrammatical for its spelling."""
  assert parse(text).program == parse(SAME).program


@pytest.mark.parametrize(
  "text",
  [
    "",
    "?",
    "???",
    "What color is the large star",
    "What color is the large star.",
    "What color is the large star??",
    "What? color is the large star?",
    "What color is the large star? Thanks.",
    "What color is large star?",
    "What color is the star large?",
    "What color is the large large star?",
    "What color is the red blue star?",
    "What color is the stars?",
    "How many star are there?",
    "What color the large star is?",
    "What color is the large starfish?",
    "What color is the large star and?",
    "And what color is the large star?",
    "Nice words and what color is the large star?",
    "What color is the large star and nice words?",
    "What letter is the color on the star?",
    "Is the star redder than the square?",
    "What color is the leftmost star left of the square?",
    "What color is the star with the letter Q?",
    "What color is the star left of the star left of the star left of the star?",
  ],
)
def test_word_salad_is_ungrammatical(text):
  """Wrong: a parser that finds its words somewhere, or skips what it can't place."""
  assert parse(text) is None


def test_shuffled_words_are_ungrammatical():
  """Wrong: a bag of words is enough."""
  rng = random.Random(2)
  read = 0
  for _ in range(500):
    words = sample_question(rng, sample_scene(rng)).text[:-1].split()
    rng.shuffle(words)
    read += parse(" ".join(words) + "?") is not None
  assert read <= 10  # a short question may come out whole


def test_two_questions_are_not_atomic():
  """Wrong: "and" between references splits one question, or two pass as one."""
  scene = sample_scene(random.Random(3))
  for text in (
    "What color is the star and what shape is the red object?",
    "So how many stars are there and do the star and the circle have the same color?",
    "Do the star and the circle have the same color and who made this picture?",
    "Count the stars and what do you get and where is the circle?",
  ):
    verdict = judge_question(text, scene)
    assert (verdict.grammatical, verdict.atomic, verdict.valid) == (True, False, False)
  for text in (
    "Do the star and the circle have the same color?",
    "Count the stars and what do you get?",
    "Read the letter on the star and what is it?",
  ):
    assert parse(text).kind == "question"
  assert parse("What color is the star and the circle?") is None


def test_the_outer_relation_keeps_its_words():
  """Wrong: "is A left of B left of C" asks whether (A left of B) is left of C."""
  program = parse("Is the star left of the circle above the arrow?").program
  assert program.target == NounPhrase(Description(shape="star"))
  assert program.relation == "left"
  anchor = NounPhrase(Description(shape="arrow"))
  circle = Description(shape="circle")
  assert program.other == NounPhrase(circle, None, "above", anchor)


@pytest.mark.parametrize(
  ("text", "spans"),
  [
    ("What color is the large star?", ["the large star"]),
    ("So, is the red star left of an arrow?", ["the red star", "arrow"]),
    (
      "What color is the star to the left of the leftmost big circle?",
      ["the star", "the leftmost big circle"],
    ),
    ("How many small circles are there?", ["small circles"]),
    (
      "Is the thing with the letter X above the item ?",
      ["the thing with the letter X", "the item"],
    ),
    ("Are there more red things than stars?", ["red things", "stars"]),
    ("Who made this picture?", []),
    ("The red star", []),
  ],
)
def test_references_are_word_spans(text, spans):
  """Wrong: off by one, the article lost, or one span for a head and its anchor."""
  found = references(text)
  words = text.replace(",", "").rstrip("? ").split()
  assert [" ".join(words[r.start : r.end]) for r in found] == spans


def test_references_mean_what_the_program_names():
  """Wrong: a span that means another object than its place in the program."""
  rng = random.Random(4)
  for _ in range(800):
    asked = sample_question(rng, sample_scene(rng))
    p = asked.verdict.program
    expected = []
    for phrase in (p.target, p.other):
      while phrase is not None:
        expected.append(NounPhrase(phrase.description, phrase.extreme))
        phrase = phrase.anchor
    expected += [d for d in (p.described, p.described_other) if d is not None]
    found = [r.meaning for r in references(asked.text)]
    for meaning in expected:
      assert meaning in found, asked.text
    extra = [m for m in found if m not in expected]
    claim = Description(shape=p.value) if p.family == "verify" else Description()
    assert all(m == claim for m in extra), asked.text  # "a star" · "most objects"


def slope_of(counts):
  """Of log count over log rank, by least squares."""
  xs = [math.log(rank + 1) for rank in range(len(counts))]
  ys = [math.log(count) for count in counts]
  mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
  rise = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
  return rise / sum((x - mx) ** 2 for x in xs)


def test_forms_fall_off_like_zipf():
  """Wrong: every form as often as the next, or the first one always."""
  rng = random.Random(7)
  program = Program("quadrant", target=NounPhrase(Description(shape="star")))
  counts = collections.Counter()
  for _ in range(4000):
    text = realise(program, rng, 0.0)
    counts[re.sub("picture|image|scene", "", text)] += 1
  assert len(counts) == sum(t.family == "quadrant" for t in templates.TEMPLATES)
  assert abs(slope_of(sorted(counts.values())[::-1]) + templates.ZIPF) < 0.25
  assert counts["Where is the star?"] == max(counts.values())
  assert templates.ZIPF > 1


def test_prefixes_are_many_and_fall_off_like_zipf():
  """Wrong: a few openings only, or all of them equally often.

  Without lead-ins and rare forms there are fewer than 150 prefixes.
  """
  counts = prefix_counts(8000)
  assert len(counts) >= 150
  ranked = sorted(counts.values(), reverse=True)
  top = sum(ranked[:10]) / sum(ranked)
  assert 0.35 <= top <= 0.7
  assert sum(count <= 8 for count in ranked) >= len(ranked) / 3
  assert -2.0 <= slope_of(ranked[:150]) <= -0.7


def test_the_command_prints_the_prefix_count(monkeypatch, capsys):
  """Wrong: no number, or the number of questions in place of the prefixes."""
  few = prefix_counts(1600)
  monkeypatch.setattr(questions, "prefix_counts", lambda n: few)
  questions.main()
  printed = capsys.readouterr().out
  assert re.match(rf"{len(few)} two-word prefixes in \d+ valid questions", printed)


def test_every_kind_of_invalid_question_varies():
  """Wrong: one canned sentence per kind."""
  rng = random.Random(5)
  for kind in INVALID_KINDS:
    texts = {sample_invalid(rng, sample_scene(rng), kind).text for _ in range(60)}
    assert len(texts) >= 8, kind


def test_sampling_is_reproducible():
  """Wrong: hash order or the global random state decides what is asked."""
  runs = []
  for _ in range(2):
    rng = random.Random(6)
    random.seed(len(runs))
    scene = sample_scene(rng)
    runs.append([sample_question(rng, scene).text for _ in range(50)])
  assert runs[0] == runs[1]
  assert len(set(runs[0])) > 25
  assert questions.UNIFORM.keys() >= {"existence", "two_hop"}
