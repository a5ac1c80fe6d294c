"""What stage 4 pays for a valid question."""

import random

import pytest

from fmd_jax.testbed import recipe
from fmd_jax.testbed.planted import BLIND_SPOTS
from fmd_jax.testbed.polish import Shares
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import sample_scene

WEIGHTS, CELLS = {"color": 8.0, "ocr": 2.0}, {"color/shape=star": 3.0}


def test_a_cell_takes_its_share_from_its_skill():
  # Beside the skill, the shares would add up to 1.3 and every one be too high.
  target = Shares(WEIGHTS, CELLS).target
  assert target == {"color": 0.5, "ocr": 0.2, "color/shape=star": 0.3}
  with pytest.raises(ValueError, match="no less than the skill"):
    Shares(WEIGHTS, {"ocr/color=blue": 2.0})


def test_a_question_counts_for_its_cell_or_else_for_its_skill():
  shares, rng = Shares(WEIGHTS, CELLS), random.Random(0)
  named = set()
  for _ in range(60):
    scene = sample_scene(rng)
    asked = sample_question(rng, scene, WEIGHTS)
    verdict = judge_question(asked.text, scene)
    own = "color/shape=star" in verdict.cells
    assert shares.name(verdict) == ("color/shape=star" if own else verdict.skills[0])
    named.add(shares.name(verdict))
  assert named == {"color", "ocr", "color/shape=star"}


def test_what_is_rarer_than_its_target_earns_more():
  shares = Shares(WEIGHTS, CELLS)
  assert shares.reward("color") == shares.reward("color/shape=star") == 1
  for _ in range(200):
    shares.update(["color"] * 9 + ["ocr"])
  # Shares now: .9, .1, 0. The cell's ratio has no bound but the cap.
  assert shares.reward("color") == pytest.approx(0.5 / 0.9, rel=0.05)
  assert shares.reward("ocr") == pytest.approx(2, rel=0.05)
  assert shares.reward("color/shape=star") == 10


def test_the_recipe_gives_every_skill_and_planted_cell_its_share():
  target = Shares(recipe.TAIL_MIX, recipe.SPOT_SHARES).target
  assert set(recipe.SPOT_SHARES) == {spot.cell for spot in BLIND_SPOTS["first"]}
  assert min(target.values()) >= 0.003
