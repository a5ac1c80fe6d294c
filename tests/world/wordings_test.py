"""The annotator's and namer's tables: hard on purpose, and invertible."""

import collections

import pytest

from fmd_jax.world import wordings
from fmd_jax.world.skills import SKILLS


@pytest.mark.parametrize("skill", SKILLS)
def test_a_skill_has_many_paraphrases_and_none_tells_its_id(skill):
  # Wrong: a table that gives the answer away makes recovery a lookup.
  phrases = wordings.WORDINGS[skill].phrases
  assert len(set(phrases)) >= 8
  words = skill.split("_")
  for phrase in phrases:
    assert not set(words) <= set(phrase.lower().replace("'", " ").split()), phrase
    assert skill not in phrase


def test_no_phrase_is_of_two_skills():
  # Wrong: the truth of such a phrase is whichever skill comes last in the table.
  own = [p for w in (*wordings.WORDINGS.values(), wordings.VAGUE) for p in w.phrases]
  assert len(set(own)) == len(own)
  for skill, wording in wordings.WORDINGS.items():
    assert {wordings.skill_of(phrase) for phrase in wording.phrases} == {skill}
  assert {wordings.skill_of(p) for p in wordings.VAGUE.phrases} == {wordings.OTHER}


def test_one_phrase_in_ten_names_no_skill():
  said = [
    wordings.skill_of(wordings.primitives(["negation"], "image", str(i))[0])
    for i in range(4000)
  ]
  counts = collections.Counter(said)
  assert counts["negation"] / 4000 == pytest.approx(0.9, abs=0.02)
  assert set(counts) == {"negation", wordings.OTHER}


def test_the_same_question_gets_the_same_phrases():
  # Wrong: a resumed run disagrees with itself.
  first = wordings.primitives(["color", "nearest"], "image", "question")
  assert first == wordings.primitives(["color", "nearest"], "image", "question")
  others = {tuple(wordings.primitives(["color"], "image", str(i))) for i in range(50)}
  assert len(others) > 20


def test_a_label_is_that_of_the_majority_whatever_the_order():
  phrases = [*wordings.WORDINGS["ocr"].phrases[:5], *wordings.VAGUE.phrases[:3]]
  label = wordings.label(phrases)
  assert wordings.WORDINGS["ocr"].label in label.lower()
  assert wordings.label(phrases[::-1]) == label


def test_meta_skills_take_every_label_once():
  labels = [w.label.title() + " Skill" for w in wordings.WORDINGS.values()]
  labels.append("made by hand")
  groups = wordings.meta_skills(labels)
  assert sorted(sum(groups.values(), [])) == sorted(labels)
  assert "Letter Reading Skill" in groups["symbol reading"]
