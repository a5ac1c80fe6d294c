"""Suites: frozen, hashed, asked alike; exit codes that CI can rely on."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from fmd_jax import replay
from fmd_jax.inference import Reply
from fmd_jax.types import CRITERIA, ImageExample
from tests import failing_run
from tests.runs import ROOT

ASKING = replay.Asking(5, 1.0, 8, 64, 0, seed=1)


class Model:
  name, revision = "model", "1"

  def __init__(self):
    self.requests = []

  def generate(self, requests):
    self.requests += requests
    return [Reply(f"{r.sample}") for r in requests]


class Judge:
  """Finds the answers 3 and 4 wrong, and has nothing to say of 2."""

  name, revision = "judge", "1"

  def generate(self, requests):
    out = []
    for request in requests:
      answer = request.fields["answer"]
      verdict = {k: {"ok": True, "why": "so"} for k in CRITERIA}
      verdict |= {"correct": {"ok": answer in "01", "why": "so"}}
      out.append(Reply("" if answer == "2" else json.dumps(verdict)))
    return out


def questions(n=4):
  return pd.DataFrame(
    {
      "id": [f"q{i}" for i in range(n)],
      "image_id": [f"i{i % 2}" for i in range(n)],
      "image_sha256": "0",
      "question": [f"Is it {i}?" for i in range(n)],
      "kind": ["failure", "guard"] * (n // 2),
      "groups": [["color"], ["shape"]] * (n // 2),
      "tier": 1,
      "discovered": "no",
      "reference": None,
    }
  )


IMAGES = {f"i{i}": ImageExample(f"i{i}", bytes([i])) for i in range(2)}
STATEMENT = {"version": "1", "judge": "judge@1", "evaluator": "x", **ASKING._asdict()}


@pytest.fixture
def folder(tmp_path):
  asks = replay.ask(Model(), Judge(), questions(), IMAGES, ASKING)
  suite = replay.Suite(STATEMENT, questions(), asks, IMAGES)
  replay.write_suite(tmp_path / "suite", suite)
  return tmp_path / "suite"


def test_what_is_written_comes_back(folder):
  suite = replay.read_suite(folder)
  assert suite.images == IMAGES
  assert suite.questions["question"].tolist() == questions()["question"].tolist()
  assert suite.asks.groupby("id")["ask"].apply(list).tolist() == [[0, 1, 2, 3, 4]] * 4
  # Two of five are wrong, one is unscored: neither wrong nor right.
  assert suite.asks["wrong"].isna().sum() == 4 and suite.asks["wrong"].sum() == 8
  found = replay.compare(suite, suite.asks)
  assert found.questions["before"].tolist() == [0.5] * 4
  assert found.unscored == 0.2 and not found.regressions()


def test_each_question_draws_by_itself():
  """With one seed for all, an engine's draws rise and fall together: fifty questions
  would be one, and an unchanged model would often look changed."""
  model = Model()
  replay.ask(model, Judge(), questions(), IMAGES, ASKING)
  drawn = {(request.seed, request.sample) for request in model.requests}
  assert len(drawn) == len(model.requests) == 20
  assert len({request.seed for request in model.requests}) == 4
  other = Model()
  replay.ask(other, Judge(), questions(), IMAGES, ASKING._replace(seed=2))
  assert not drawn & {(request.seed, request.sample) for request in other.requests}


def test_a_changed_suite_is_refused_and_the_file_named(folder):
  replay.read_suite(folder)
  for name in ("suite.json", "questions.parquet", "asks.parquet", "images/i1.png"):
    path = folder / name
    content = path.read_bytes()
    at = content.index(b'"seed": 1') + 8 if name == "suite.json" else len(content) - 1
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(replay.SuiteError, match=f"{name} was changed"):
      replay.read_suite(folder)
    path.unlink()
    with pytest.raises(replay.SuiteError, match=name):
      replay.read_suite(folder)
    path.write_bytes(content)
  (folder / "images" / "more.png").write_bytes(b"")
  with pytest.raises(replay.SuiteError, match="more.png is no part"):
    replay.read_suite(folder)


def test_a_suite_is_never_written_over_and_has_five_answers(folder, tmp_path):
  suite = replay.read_suite(folder)
  with pytest.raises(replay.SuiteError, match="never changed"):
    replay.write_suite(folder, suite)
  few = suite._replace(statement=suite.statement | {"asks": 4})
  with pytest.raises(replay.SuiteError, match="at least 5"):
    replay.write_suite(tmp_path / "few", few)
  assert not (tmp_path / "few").exists()


def test_answers_of_one_judge_only_are_compared(folder):
  suite = replay.read_suite(folder)
  nothing = suite.asks.assign(wrong=pd.array([None] * 20, dtype="boolean"))
  with pytest.raises(ValueError, match="no question has a scored answer"):
    replay.compare(suite, nothing)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return failing_run.make(tmp_path_factory.mktemp("run"))


def launch(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "launch.replay", *map(str, arguments)],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
  folder = tmp_path_factory.mktemp("suites") / "suite"
  done = launch("make", "--workdir", run, "--suite", folder, "--failures=30")
  assert done.returncode == 0, done.stderr
  assert "5 fresh answers each; at most" in done.stdout
  return folder


def asked(suite, run, name, out):
  model = f"--roles.answerer=scripted://{run}/script.py:{name}"
  return launch("--suite", suite, model, "--workdir", out)


def test_a_worse_model_is_exit_code_1_and_a_refused_suite_2(made, run, tmp_path):
  """A crash, a wrong flag, a changed suite may never look like a regression."""
  done = asked(made, run, "new", tmp_path)
  assert done.returncode == 1 and "newly failing" in done.stdout, done
  page = (tmp_path / "replay.html").read_text()
  assert "data:image/jpeg" in page and "newly failing" in page
  result = json.loads((tmp_path / "replay.json").read_text())
  assert result["regressions"]
  table = pd.read_csv(tmp_path / "replay.csv")
  assert table["name"].tolist() == [row["name"] for row in result["table"]]
  changed = shutil.copytree(made, tmp_path / "changed")
  image = next((changed / "images").iterdir())
  image.write_bytes(image.read_bytes() + b" ")
  done = asked(changed, run, "old", tmp_path / "no")
  assert done.returncode == 2 and image.name in done.stderr
  assert launch("--no_such_flag", "--suite", changed).returncode == 2


@pytest.mark.slow
def test_the_same_model_is_exit_code_0_and_a_mute_one_2(made, run, tmp_path):
  done = asked(made, run, "old", tmp_path / "old")
  assert done.returncode == 0, done
  done = asked(made, run, "mute", tmp_path / "mute")
  assert done.returncode == 2 and "no question has" in done.stderr, done
