"""The chain of stages: what is kept, what is made anew, where a skill comes from."""

import dataclasses
import json

import pandas as pd
import pytest

from fmd_jax import inference, taxonomy
from fmd_jax.inference import Reply
from fmd_jax.taxonomy import annotations
from fmd_jax.taxonomy.duplicates import normalise
from fmd_jax.world import wordings
from tests.taxonomy import workdirs

SETTINGS = taxonomy.Settings(
  seed=0,
  questions=0,
  max_tokens=64,
  retries=0,
  near_duplicate=0.9,
  min_topic_size=0,
  stability_seeds=1,
  label_duplicate=0.9,
)


class Counts:
  """The oracle, with what it was asked; `fails` says which requests to refuse."""

  def __init__(self, fails=lambda n: False):
    self._oracle, self._fails, self.asked = inference.resolve("oracle://"), fails, 0
    self.name, self.revision = "counts", "1"

  def generate(self, requests):
    replies = self._oracle.generate(requests)
    start, self.asked = self.asked, self.asked + len(requests)
    return [
      Reply("", error="down") if self._fails(start + i) else reply
      for i, reply in enumerate(replies)
    ]


def models(**changes):
  own = {"annotator": Counts(), "namer": Counts(), "embedder": workdirs.embedder()}
  return taxonomy.Models(**(own | changes))


@pytest.fixture
def run(tmp_path, monkeypatch):
  # Each primitive is its own topic: clustering has a test of its own.
  monkeypatch.setattr("fmd_jax.taxonomy.topics.FEWEST", 10_000)
  return workdirs.make(tmp_path / "run")


def read(folder, name):
  return pd.read_parquet(folder / "taxonomy" / f"{name}.parquet")


def test_every_assignment_leads_back_to_a_question_and_its_image(run):
  taxonomy.build([run], models(), SETTINGS)
  assigned, primitives = read(run, "assignments"), read(run, "primitives")
  skills, meta = read(run, "skills"), read(run, "meta_skills")
  rows = pd.concat(
    pd.read_parquet(path) for path in sorted((run / "evaluations").iterdir())
  )
  valid = rows[rows["valid"].astype(bool)]
  key = ["method", "split", "step", "image_id", "response_index", "slot", "question"]
  # Every valid row and no other, repeats too.
  assert set(map(tuple, assigned[key].to_numpy())) == set(
    map(tuple, valid[key].to_numpy())
  )
  assert not assigned.duplicated([*key, "skill"]).any()
  assert all((run / "images" / f"{i}.png").is_file() for i in assigned["image_id"])
  own = assigned.merge(primitives, on="primitive_id", suffixes=("", "_primitive"))
  assert len(own) == len(assigned) and (own["skill"] == own["skill_primitive"]).all()
  topics = dict(zip(skills["skill"], skills["topic"]))
  assert all(t in topics[s] for s, t in zip(own["skill"], own["topic"]))
  assert skills["skill"].is_unique
  groups = {s: m for m, own in zip(meta["meta_skill"], meta["skills"]) for s in own}
  assert groups == dict(zip(skills["skill"], skills["meta_skill"]))
  assert (assigned["meta_skill"] == assigned["skill"].map(groups)).all()
  # What the annotator said of a question is what it is filed under, in its order.
  said = [
    json.loads(line)
    for line in (run / "taxonomy" / annotations.FILE).read_text().splitlines()
  ]
  phrases = read(run, "phrases").set_index("phrase")["primitive_id"]
  first = assigned[assigned["rank"] == 0]
  by_question = {(e["image_id"], e["question"]): e["primitives"][0] for e in said}
  for image_id, question, primitive in first[
    ["image_id", "question", "primitive_id"]
  ].itertuples(index=False):
    assert phrases[normalise(by_question[image_id, question])] == primitive
  distinct = valid.drop_duplicates(["image_id", "question"])
  assert len(said) == len(distinct)
  assert primitives["count"].sum() == sum(len(e["primitives"]) for e in said)


def test_nothing_is_asked_twice(run):
  first = models()
  taxonomy.build([run], first, SETTINGS)
  before = {p.name: p.read_bytes() for p in (run / "taxonomy").iterdir()}
  again = models(embedder=None)
  again = dataclasses.replace(again, embedder=workdirs.embedder())
  taxonomy.build([run], again, SETTINGS)
  assert first.annotator.asked > 20 and first.namer.asked > 20
  assert again.annotator.asked == again.namer.asked == 0
  assert before == {p.name: p.read_bytes() for p in (run / "taxonomy").iterdir()}


def test_a_failed_annotation_is_unscored_and_asked_for_again(run):
  # Wrong: a question without skills, or one that stays without for ever.
  failing = models(annotator=Counts(lambda n: n % 4 == 0))
  taxonomy.build([run], failing, SETTINGS)
  summary = json.loads((run / "taxonomy" / "summary.json").read_text())
  assert summary["unscored"] == pytest.approx(0.25, abs=0.03)
  less = len(read(run, "assignments"))
  again = models()
  taxonomy.build([run], again, SETTINGS)
  assert again.annotator.asked == round(summary["unscored"] * summary["questions"])
  assert len(read(run, "assignments")) > less


def test_a_killed_run_keeps_what_it_paid_for(run, monkeypatch):
  monkeypatch.setattr(annotations, "_BATCH", 8)

  class Killed(Counts):
    def generate(self, requests):
      if self.asked >= 16:
        raise KeyboardInterrupt
      return super().generate(requests)

  with pytest.raises(KeyboardInterrupt):
    taxonomy.build([run], models(annotator=Killed()), SETTINGS)
  with (run / "taxonomy" / annotations.FILE).open("a") as file:
    file.write('{"annotator": "cou')  # a line that the kill cut off
  again = models()
  taxonomy.build([run], again, SETTINGS)
  summary = json.loads((run / "taxonomy" / "summary.json").read_text())
  assert again.annotator.asked == summary["questions"] - 16


def test_an_edit_changes_what_follows_and_asks_nobody(run):
  taxonomy.build([run], models(), SETTINGS)
  skills = read(run, "skills")["skill"].tolist()
  before = read(run, "assignments")
  (run / "taxonomy" / "edits.csv").write_text(
    f"action,what,into\nmerge,{skills[1]},{skills[0]}\nrename,{skills[0]},By Hand\n"
  )
  again = models()
  taxonomy.build([run], again, SETTINGS)
  assert again.annotator.asked == again.namer.asked == 0
  after = read(run, "assignments")
  moved = before["skill"].isin(skills[:2])
  names = set(after["skill"])
  assert "By Hand" in names and not names & set(skills[:2])
  rows = after.drop_duplicates(["method", "step", "slot", "image_id"])
  assert (after["skill"] == "By Hand").sum() <= moved.sum() and len(rows) > 0
  # A question that needed both needs one skill now.
  assert not after.duplicated(["method", "step", "slot", "image_id", "skill"]).any()


def test_a_bad_edit_costs_no_annotation(run):
  (run / "taxonomy").mkdir()
  (run / "taxonomy" / "edits.csv").write_text("action,what,into\nsplit,a,b\n")
  own = models()
  with pytest.raises(ValueError, match="no action 'split'"):
    taxonomy.build([run], own, SETTINGS)
  assert own.annotator.asked == 0


def test_pooled_runs_share_skills_and_each_keeps_its_own_questions(run, tmp_path):
  other = workdirs.make(tmp_path / "other", methods=("grpo",), seed=1)
  # The same pictures and questions as the first: nobody is asked about them twice.
  same = workdirs.make(tmp_path / "same", methods=("zero_shot", "grpo"))
  own = models()
  taxonomy.build([run, other, same], own, SETTINGS)
  summary = json.loads((other / "taxonomy" / "summary.json").read_text())
  assert own.annotator.asked < summary["questions"]
  for folder in (run, other, same):
    pd.testing.assert_frame_equal(read(folder, "skills"), read(run, "skills"))
    assert set(read(folder, "assignments")["workdir"]) == {str(folder)}
  a, b = read(run, "assignments"), read(same, "assignments")
  pd.testing.assert_frame_equal(a.drop(columns="workdir"), b.drop(columns="workdir"))


def test_a_limit_on_questions_is_spread_over_the_run(run):
  settings = dataclasses.replace(SETTINGS, questions=4)
  own = models()
  taxonomy.build([run], own, settings)
  assigned = read(run, "assignments")
  assert own.annotator.asked <= 8
  assert {0, 3} <= set(assigned["step"])  # the first and the last, not the first four


def test_errors_say_what_to_do(run, tmp_path):
  with pytest.raises(FileNotFoundError, match="python -m launch.evaluate --workdir"):
    taxonomy.build([tmp_path / "nothing"], models(), SETTINGS)
  silent = models(annotator=Counts(lambda n: True))
  with pytest.raises(ValueError, match="failed on all .* down"):
    taxonomy.build([run], silent, SETTINGS)


def test_the_oracle_knows_its_phrases_after_they_are_normalised():
  # Wrong: the namer takes a comma or a dropped word for a phrase of no skill.
  for skill, wording in wordings.WORDINGS.items():
    for phrase in wording.phrases:
      for frame in wordings._FRAMES:
        text = normalise(frame.format(phrase))
        assert wordings.skill_of(text) == skill, text
