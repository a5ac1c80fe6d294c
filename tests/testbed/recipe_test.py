"""The recipe of the checkpoints, from nothing, with a few steps of each stage."""

import pytest

from fmd_jax import models
from fmd_jax.testbed import card, recipe
from fmd_jax.world.skills import EASY_SKILLS


@pytest.mark.slow
def test_every_stage_runs_and_a_stopped_build_goes_on(tmp_path):
  shop = recipe.Workshop(tmp_path, recipe.SMOKE)
  recipe.build_questioner(shop)
  made = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("*/model.*")}
  assert set(made) == {"stage1", "answerer", "stage3", "questioner"}
  # A second call, as after a crash, finds every stage and makes none again.
  recipe.build_questioner(recipe.Workshop(tmp_path, recipe.SMOKE))
  after = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("*/model.*")}
  assert after == made
  report = card.measure(shop)
  assert set(EASY_SKILLS) <= set(report["answerer"])
  assert "| color |" in card.text({"base": report})
  # The stages differ: a stage that trained nothing would save its input again.
  tables = [
    models.load(tmp_path / name).language_model.embed_tokens.embedding[...]
    for name in ("stage1", "answerer", "stage3", "questioner")
  ]
  for a, b in zip(tables, tables[1:], strict=False):
    assert abs(a - b).max() > 0
