"""The recipe of the checkpoints, from nothing, with a few steps of each stage."""

import json
import pathlib

import numpy as np
import pytest
from flax import nnx

from configs import answerers
from fmd_jax import inference, models
from fmd_jax.testbed import card, census, recipe, two_turns
from fmd_jax.world.skills import EASY_SKILLS


def test_the_rows_of_answerers_name_what_the_family_makes():
  """A row of a checkpoint that no build installs, or one that no row shows."""
  made = {
    f"hf://testbed/{card.asset_name(name, role)}"
    for name, member in recipe.FAMILY.items()
    for role in member.roles
    if not member.starts_from  # a second turn's: `config.conme.questioner`
  }
  configs = [answerers.get_config(row) for row in answerers.ROWS]
  named = {c.roles[role] for c in configs for role in ("answerer", "questioner")}
  assert named == made and len(made) == 5
  assert len({c.to_json() for c in configs}) == len(configs)
  with pytest.raises(ValueError, match="no row 'none'"):
    answerers.get_config("none")


def visual(model):
  """The vision tower's parameters by name."""
  state = nnx.to_flat_state(nnx.state(model.visual))
  return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in state}


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


@pytest.mark.slow
def test_the_second_turns_stage_runs_and_leaves_its_start_alone(tmp_path):
  start = pathlib.Path(inference.checkpoint_folder(two_turns.BASE))
  before = {p.name: p.read_bytes() for p in start.iterdir()}
  shop = recipe.Workshop(tmp_path, recipe.SMOKE, "two_turns")
  two_turns.build(shop)
  made = tmp_path / "questioner" / "model.safetensors"
  stamp = made.stat().st_mtime_ns
  two_turns.build(shop)
  assert made.stat().st_mtime_ns == stamp
  report = card.measure(shop)
  assert set(report["second_turn"]) == {"1", "2", "4"}
  assert "| 2 | " in card.text({"two_turns": report})
  assert {p.name: p.read_bytes() for p in start.iterdir()} == before
  assert made.read_bytes() != before["model.safetensors"]


@pytest.mark.slow
def test_the_qwen3_vl_answerer_is_made_measured_and_counted(tmp_path):
  shop = recipe.Workshop(tmp_path, recipe.SMOKE, "other")
  recipe.build(shop)
  assert {p.parent.name for p in tmp_path.glob("*/model.*")} == {"stage1", "answerer"}
  report = card.measure(shop)
  assert "questioner" not in report
  assert "qwen3_vl: answerer 7.3 MB\n" in card.text({"other": report})
  found = json.loads(
    census.write(tmp_path / "answerer", report["spots"], 30).read_text()
  )
  planted = {cell for cell, own in found["cells"].items() if own["planted"]}
  # Another answerer's blind spots would be no truth about this one.
  assert planted and planted <= set(report["spots"])
  before = visual(models.init(shop.config, seed=shop.member.seed))
  taught, frozen = (
    visual(models.load(tmp_path / name)) for name in ("stage1", "answerer")
  )
  moved = {name: abs(taught[name] - before[name]).max() for name in before}
  # Without a lesson of its own, what deepstack takes moves by its weight decay alone,
  # a thousandth of this.
  for name in ("fc1.kernel", "fc2.kernel"):
    assert moved[f"deepstack_merger_list.{name}"] > 0.5 * moved[f"merger.{name}"] > 0
  assert all((frozen[name] == taught[name]).all() for name in taught)
