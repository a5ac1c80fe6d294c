"""Corrections by hand."""

import pytest

from fmd_jax.taxonomy import edits

SKILLS = {"hue": "color", "paint": "colour", "reading": "text", "signs": "text"}
META = {"color": "looks", "colour": "looks", "text": "symbols"}


def apply(*lines):
  own = [edits.Edit(i + 2, *line.split(",")) for i, line in enumerate(lines)]
  return edits.apply(own, SKILLS, META)


def test_each_action():
  # Wrong: a merge that loses the primitives, a rename that loses the meta-skill.
  skills, meta = apply("merge,colour,color", "rename,color,hue recognition")
  assert skills == {**SKILLS, "hue": "hue recognition", "paint": "hue recognition"}
  assert meta == {"hue recognition": "looks", "text": "symbols"}
  skills, meta = apply("move,signs,color", "meta,text,language")
  assert skills == {**SKILLS, "signs": "color"}
  assert meta == {**META, "text": "language"}


def test_a_skill_that_lost_its_primitives_is_gone():
  assert apply("move,paint,color")[1] == {"color": "looks", "text": "symbols"}


def test_inputs_stay_as_they_were():
  apply("merge,colour,color")
  assert SKILLS["paint"] == "colour" and "colour" in META


@pytest.mark.parametrize(
  ("line", "says"),
  [
    ("rename,colr,hue", "line 2: there is no skill 'colr'; the nearest is 'color'"),
    ("rename,colour,color", "write merge,colour,color"),
    ("merge,color,nothing", "no skill 'nothing'"),
    ("merge,color,color", "with itself"),
    ("move,signz,color", "no primitive 'signz'; the nearest is 'signs'"),
    ("meta,nothing,looks", "no skill 'nothing'"),
  ],
)
def test_a_bad_edit_says_what_is_near(line, says):
  with pytest.raises(ValueError, match=says):
    apply(line)


def test_the_file(tmp_path):
  path = tmp_path / "edits.csv"
  assert edits.read(path) == []
  path.write_text('action,what,into\n# why\n\nmerge,"a, b",c\n')
  assert edits.read(path) == [edits.Edit(4, "merge", "a, b", "c")]
  path.write_text("action,what,into\nsplit,a,b\n")
  with pytest.raises(ValueError, match=r"edits.csv:2: no action 'split'; one of rena"):
    edits.read(path)
  path.write_text("action,what,into\nmerge,a\n")
  with pytest.raises(ValueError, match=r"edits.csv:2: three cells are needed"):
    edits.read(path)
  path.write_text("merge,a,b\n")
  with pytest.raises(ValueError, match="the first line must be action,what,into"):
    edits.read(path)
