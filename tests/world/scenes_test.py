"""Scenes, their pixels and files, and what skills and cells are made of."""

import dataclasses
import io
import random

import numpy as np
import pytest
from PIL import Image

from fmd_jax.world import png
from fmd_jax.world.drawing import render
from fmd_jax.world.grammar import parse
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import (
  CELL,
  COLORS,
  DIRECTIONS,
  LETTERS,
  PATTERNS,
  RADIUS,
  SHAPES,
  SIDE,
  SIZES,
  VALUES,
  Object,
  Scene,
  sample_scene,
  scene_from_json,
  scene_to_json,
)
from fmd_jax.world.skills import SKILLS, skills


def some_scenes(n, seed=0):
  rng = random.Random(seed)
  return [sample_scene(rng) for _ in range(n)]


def test_scenes_hold_what_they_promise():
  """Wrong: a value never drawn, a letter on an arrow, a direction on a circle."""
  scenes = some_scenes(1500)
  assert {len(scene.objects) for scene in scenes} == {2, 3, 4, 5, 6}
  items = [item for scene in scenes for item in scene.objects]
  for name, values in VALUES.items():
    assert {getattr(item, name) for item in items} == set(values)
  assert {item.letter for item in items} == {None, *LETTERS}
  assert {item.direction for item in items} == {None, *DIRECTIONS}
  for item in items:
    assert (item.direction is not None) == (item.shape == "arrow")
    assert item.letter is None or (item.size == "large" and item.shape != "arrow")
  plain = [i for i in items if i.size == "large" and i.shape != "arrow"]
  assert 0.75 < sum(i.letter is not None for i in plain) / len(plain) < 0.95


def test_objects_keep_apart_and_inside():
  """Wrong: discs that touch or leave the picture, two centres in one token."""
  for scene in some_scenes(1500):
    cells = [int(o.y / CELL) * 4 + int(o.x / CELL) for o in scene.objects]
    assert cells == [o.cell for o in scene.objects]
    assert all(0 <= cell < 16 for cell in cells)
    assert len(set(cells)) == len(cells)
    for i, a in enumerate(scene.objects):
      assert RADIUS[a.size] < min(a.x, a.y)
      assert max(a.x, a.y) < SIDE - RADIUS[a.size]
      for b in scene.objects[:i]:
        gap = ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5
        assert gap > RADIUS[a.size] + RADIUS[b.size]


def coverage(item, scene):
  """Which pixels change when the object is alone on the scene's background."""
  alone, none = (
    render(dataclasses.replace(scene, objects=objects)).astype(int)
    for objects in ((item,), ())
  )
  return np.abs(alone - none).max(-1) > 3


def test_no_object_hides_another():
  """Wrong: a sprite wider than its radius, drawn over its neighbour.

  Corners of squares and triangles reach a few pixels out of their discs.
  """
  worst = 0.0
  for scene in some_scenes(60):
    masks = [coverage(item, scene) for item in scene.objects]
    for i, mask in enumerate(masks):
      later = np.zeros_like(mask)
      for other in masks[i + 1 :]:
        later |= other
      worst = max(worst, (mask & later).sum() / mask.sum())
  assert worst < 0.08


def test_pictures_are_112_pixels_and_repeat():
  """Wrong: another size or dtype, or pixels that depend on what was drawn before."""
  for scene in some_scenes(10):
    first = render(scene)
    assert (first.shape, first.dtype) == ((SIDE, SIDE, 3), np.uint8)
    render(some_scenes(1, seed=1)[0])
    np.testing.assert_array_equal(first, render(scene))
    noisier = dataclasses.replace(scene, noise_seed=scene.noise_seed + 1)
    change = np.abs(render(noisier).astype(int) - first)
    assert 1 < change.mean() < 10  # mild noise, and the seed decides it


def alone(**changes):
  item = Object("circle", "red", "large", "solid", 56.0, 56.0)
  return render(Scene((dataclasses.replace(item, **changes),), 228, 7)).astype(int)


def test_every_attribute_shows():
  """Wrong: two values that look the same, so that no model could tell them apart."""
  arrows = [{"shape": "arrow", "direction": d} for d in DIRECTIONS]
  shapes = [{"shape": s} for s in SHAPES if s != "arrow"]
  for looks in (
    arrows + shapes,
    [{"color": c} for c in COLORS],
    [{"pattern": p} for p in PATTERNS],
    [{"size": s} for s in SIZES],
    [{"letter": w} for w in (None, *LETTERS)],
    [{"x": x, "y": y} for x in (30.0, 80.0) for y in (30.0, 80.0)],
  ):
    pictures = [alone(**look) for look in looks]
    for i, a in enumerate(pictures):
      for b in pictures[:i]:
        assert (np.abs(a - b).max(-1) > 40).sum() > 30, looks


def test_objects_are_where_the_scene_says():
  """Wrong: x and y swapped, y upwards, or directions turned the other way."""
  picture = alone(x=30.0, y=80.0)
  empty = render(Scene((), 228, 7)).astype(int)
  ys, xs = np.nonzero(np.abs(picture - empty).max(-1) > 40)
  assert abs(xs.mean() - 30) < 1.5
  assert abs(ys.mean() - 80) < 1.5
  for direction, (dx, dy) in {
    "up": (0, -1),
    "right": (1, 0),
    "down": (0, 1),
    "left": (-1, 0),
  }.items():
    arrow = alone(shape="arrow", direction=direction)
    ys, xs = np.nonzero(np.abs(arrow - empty).max(-1) > 40)
    along = (xs - 56.0) * dx + (ys - 56.0) * dy
    # It ends in a point ahead and in the width of its shaft behind.
    assert (along > 12).sum() < 0.7 * (along < -12).sum(), direction


def test_json_round_trip():
  """Wrong: a float rounded, None turned to "None", the order of objects lost."""
  for scene in some_scenes(200):
    text = scene_to_json(scene)
    assert "\n" not in text
    assert scene_from_json(text) == scene


@pytest.mark.parametrize(
  "text",
  ["", "[]", "{}", "3", "null", '{"objects": 3}', '{"objects": [], "colour": 1}']
  + ['{"objects": [{"shape": "star"}], "background": 1, "noise_seed": 1}'],
)
def test_other_json_is_no_scene(text):
  """Wrong: a KeyError or TypeError from inside instead of one clear message."""
  with pytest.raises(ValueError, match="not a scene"):
    scene_from_json(text)


def test_png_round_trip():
  """Wrong: a lossy picture, or a scene chunk that is lost."""
  for scene in some_scenes(10):
    picture = render(scene)
    data = png.encode(picture, scene)
    assert png.scene_of(data) == scene
    with Image.open(io.BytesIO(data)) as image:
      assert image.text[png.KEY] == scene_to_json(scene)
      np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)


def test_pictures_without_a_scene():
  """Wrong: an error, or somebody else's text taken for a scene."""
  for form in ("PNG", "JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, form)
    assert png.scene_of(buffer.getvalue()) is None


@pytest.mark.parametrize(
  ("text", "needed"),
  [
    ("Is there a star?", ("existence",)),
    ("What color is the star?", ("color",)),
    ("Is the star red?", ("color",)),
    ("Is the red thing a star?", ("shape",)),
    ("How big is the star?", ("size",)),
    ("How is the star filled?", ("pattern",)),
    ("How many objects are there?", ("counting_all",)),
    ("How many stars are there?", ("counting_attribute",)),
    ("Is the star left of the circle?", ("left_right",)),
    ("Is the star under the circle?", ("above_below",)),
    ("Where is the star?", ("quadrant",)),
    ("What color is the leftmost star?", ("extremum", "color")),
    ("What color is the star nearest to the circle?", ("nearest", "color")),
    ("Are the star and the circle the same size?", ("same_different",)),
    ("Is the star bigger than the circle?", ("larger",)),
    ("What letter is on the star?", ("ocr",)),
    ("Which way does the arrow point?", ("orientation",)),
    ("Does the arrow point up?", ("orientation",)),
    ("How many stars are not red?", ("negation",)),
    ("What color is most common?", ("majority",)),
    ("Are there more stars than circles?", ("comparison",)),
    ("What color is the star above the circle?", ("two_hop", "above_below", "color")),
    (
      "How many objects are left of the leftmost star?",
      ("extremum", "two_hop", "left_right", "counting_attribute"),
    ),
  ],
)
def test_skills(text, needed):
  """Wrong: a hop or an extremum that goes unseen, or is not filed first."""
  assert skills(parse(text).program) == needed


SCENE = Scene(
  (
    Object("star", "red", "large", "solid", 20.0, 90.0, letter="X"),
    Object("circle", "blue", "small", "dotted", 58.0, 20.0),
  ),
  220,
  0,
)


STAR = "shape=star size=large pattern=solid"


@pytest.mark.parametrize(
  ("text", "cells"),
  [
    ("What color is the star?", f"{STAR} quadrant=bottom_left"),
    ("Is the star blue?", f"{STAR} quadrant=bottom_left"),
    # The circle is too near the middle for a quadrant.
    ("What shape is the dotted thing?", "color=blue size=small pattern=dotted"),
    ("Where is the star?", f"{STAR} color=red"),
    ("How many red stars are there?", "color=red shape=star"),
    ("How many stars are not red?", "shape=star color=red"),
    (
      "What shape is the leftmost object?",
      "color=red size=large pattern=solid quadrant=bottom_left",
    ),
    ("How many objects are there?", ""),
    ("What color is the square?", ""),
  ],
)
def test_cells(text, cells):
  """Wrong: the answer among them, another object's, or those of a bad question."""
  verdict = judge_question(text, SCENE)
  expected = {f"{verdict.skills[-1]}/{cell}" for cell in cells.split()}
  assert set(verdict.cells) == expected
  assert len(verdict.cells) == len(expected)


def test_every_question_has_a_skill_and_true_cells():
  """Wrong: an unknown skill, a doubled one, a cell that gives the answer away."""
  rng = random.Random(1)
  seen = set()
  for _ in range(800):
    scene = sample_scene(rng)
    verdict = sample_question(rng, scene).verdict
    assert set(verdict.skills) <= set(SKILLS)
    assert len(set(verdict.skills)) == len(verdict.skills)
    seen.add(verdict.skills[0])
    for cell in verdict.cells:
      skill, _, rest = cell.partition("/")
      name, _, value = rest.partition("=")
      assert skill == verdict.skills[-1]
      asks_for = verdict.program.family == "attribute" and verdict.program.attribute
      assert name != asks_for
      assert name in ("quadrant", "attribute", "letter") or value in VALUES[name]
  assert seen == set(SKILLS)
  assert len(SKILLS) >= 14
