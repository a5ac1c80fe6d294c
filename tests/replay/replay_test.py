"""Suites: frozen, hashed, asked alike; exit codes that CI can rely on."""

import json
import random
import subprocess
import sys

import pandas as pd
import pytest

from fmd_jax import evaluate, inference, records, replay
from fmd_jax.inference import Reply
from fmd_jax.types import CRITERIA, ImageExample
from fmd_jax.world import drawing, png
from fmd_jax.world.scenes import sample_scene
from tests.records.shards_test import record
from tests.runs import ROOT, played_config

ASKING = replay.Asking(5, 1.0, 8, 64, 0, seed=1)
SCRIPT = """
import zlib
def _fails(request, share):
  text = f"{request.seed}/{request.sample}/{request.fields['question']}"
  return zlib.crc32(text.encode()) % 100 < share
def old(request):
  return "nonsense" if _fails(request, 60) else "yes"
def new(request):
  return "nonsense" if _fails(request, 98) else "yes"
def mute(request):
  raise RuntimeError("down")
"""


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
  """An evaluated run on 24 pictures whose yes-or-no questions fail in all groups."""
  folder = tmp_path_factory.mktemp("run")
  (folder / "script.py").write_text(SCRIPT)
  rng = random.Random(0)
  rows = []
  for i in range(24):
    scene = sample_scene(rng)
    image = ImageExample(f"p{i:02}", png.encode(drawing.render(scene), scene))
    records.write_image(folder, image)
    shapes = {o.shape for o in scene.objects}
    for slot, shape in enumerate(sorted(shapes)[:3]):
      # True of each picture, so that "yes" is right.
      rows.append(
        record(
          0, image.image_id, slot, method="zero_shot",
          question=f"Is there a {'n ' if shape[0] in 'aeiou' else ''}{shape}?".replace(
            "a n ", "an "
          ),
          answer="nonsense" if slot else "yes", prefix="is there",
        )
      )  # fmt: skip
  records.write_shard(folder, "zero_shot", "train", 0, rows)
  config = played_config(
    **{
      "roles.answerer": f"scripted://{folder}/script.py:old",
      "methods": ("zero_shot",),
    }
  )
  judge = inference.resolve("oracle://")
  plan = evaluate.make_plan(folder)
  evaluate.evaluate(folder, judge, plan, max_tokens=64, retries=0)
  answerer = inference.identity(inference.resolve(config.roles.answerer))
  (folder / "config.json").write_text(json.dumps(config.to_dict()))
  manifest = {"run_id": "r", "models": {"answerer": answerer}}
  (folder / "manifest.json").write_text(json.dumps(manifest))
  return folder


def launch(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "launch.replay", *map(str, arguments)],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_the_command_and_its_exit_codes(run, tmp_path):
  """0: unchanged; 1: worse; 2: refused; 3: unscored. A crash may never look like 1."""
  suite = tmp_path / "suite"
  made = launch("make", "--workdir", run, "--suite", suite, "--failures=30")
  assert made.returncode == 0, made.stderr
  assert "150 calls" not in made.stdout and "fresh answers" in made.stdout
  script = f"scripted://{run}/script.py"
  found = {}
  for name in ("old", "new", "mute"):
    out = tmp_path / name
    done = launch(
      "--suite", suite, f"--roles.answerer={script}:{name}", "--workdir", out
    )
    found[name] = (done.returncode, done.stdout, done.stderr)
  assert found["old"][0] == 0, found["old"]
  assert found["new"][0] == 1 and "newly failing" in found["new"][1], found["new"]
  assert found["mute"][0] == 2 and "no question has" in found["mute"][2], found["mute"]
  page = (tmp_path / "new" / "replay.html").read_text()
  assert "data:image/jpeg" in page and "newly failing" in page
  result = json.loads((tmp_path / "new" / "replay.json").read_text())
  assert result["regressions"]
  table = pd.read_csv(tmp_path / "new" / "replay.csv")
  assert table["name"].tolist() == [row["name"] for row in result["table"]]
  image = next((suite / "images").iterdir())
  image.write_bytes(image.read_bytes() + b" ")
  done = launch("--suite", suite, f"--roles.answerer={script}:old")
  assert done.returncode == 2 and image.name in done.stderr
  assert launch("--no_such_flag", "--suite", suite).returncode == 2
