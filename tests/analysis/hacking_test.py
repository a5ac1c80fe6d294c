"""Signs of reward hacking, on records and evaluations that disagree in a known way."""

import pathlib

import pytest

from fmd_jax import analysis, records
from fmd_jax.analysis import hacking
from fmd_jax.types import Record
from tests.taxonomy import workdirs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The verifier calls every question a failure; rewards are equal at step 0 only."""
  folder = workdirs.make(tmp_path_factory.mktemp("runs") / "run", methods=("grpo",))
  rows = analysis.read([folder])
  for step, own in rows.groupby("step"):
    shard = [
      Record(
        run_id="r", method="grpo", split="train", step=step, image_id=row.image_id,
        group_id=f"{step}-{row.image_id}-{row.slot // 4}",
        response_index=row.response_index, slot=row.slot, status="ok",
        question=row.question, prefix=row.prefix, answer="red", grammatical=True,
        atomic=True, grounded=True, objective=True, valid=True, correct=False,
        rationale="", delta_emb=None, delta_ifreq=None, reward=1.0,
        response_reward=1.0 if step == 0 else float(row.slot % 4 == 0),
        advantage=0.0, questioner_step=step, answerer="a", verifier="v", wall_time=0.0,
      )
      for row in own.itertuples()
    ]  # fmt: skip
    records.write_shard(folder, "grpo", "train", step, shard)
  return folder


def test_gaps_are_those_of_the_two_judges(run):
  rows = analysis.read([run])
  both = hacking.judged([run], rows)
  assert len(both) == len(rows)
  table = hacking.panel(both)
  whole = table[table["window"] == -1].iloc[0]
  assert whole["verifier_qvr"] == 1 and whole["verifier_fdr"] == 1
  valid, failures = rows["valid"].sum(), rows["failure"].sum()
  assert whole["evaluator_qvr"] == pytest.approx(valid / len(rows))
  assert whole["fdr_gap"] == pytest.approx(1 - failures / valid)
  assert whole["fdr_gap_low"] <= whole["fdr_gap"] <= whole["fdr_gap_high"]
  # All were rewarded; those that are no failures were rewarded wrongly.
  assert whole["denied"] == pytest.approx(1 - failures / len(rows))
  repeats = rows[rows["valid"]].duplicated(["image_id", "question"]).mean()
  assert whole["repeats"] == pytest.approx(repeats) and repeats > 0
  assert whole["unparsed"] == whole["unscored"] == 0


def test_windows_cover_training(run):
  table = hacking.panel(hacking.judged([run], analysis.read([run])))
  parts = table[table["window"] >= 0]
  assert parts["questions"].sum() == table.iloc[0]["questions"]
  assert parts["step"].tolist() == [0, 1, 2, 3]
  shares = parts["top_prefix_share"]
  assert shares.between(0, 1).all() and (parts["effective_prefixes"] >= 1).all()


def test_groups_of_equal_rewards(run):
  both = hacking.judged([run], analysis.read([run]))
  # One response a group here: its reward equals itself.
  assert hacking.panel(both).iloc[0]["zero_variance"] == 1
  both["response_index"] = both["slot"]
  table = hacking.panel(both).set_index("window")
  assert table.loc[0, "zero_variance"] == 1 and table.loc[5, "zero_variance"] < 1
  both["response_reward"] = float("nan")
  assert hacking.panel(both).iloc[0]["zero_variance"] is None or (
    hacking.panel(both)["zero_variance"].isna().all()
  )


def test_a_run_without_records_has_no_panel(tmp_path):
  folder = workdirs.make(tmp_path / "run")
  assert hacking.judged([folder], analysis.read([folder])).empty
  assert isinstance(folder, pathlib.Path)
