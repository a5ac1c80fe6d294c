"""A user with API endpoints only: no checkpoint, no GPU, a folder of photographs."""

import json
import pathlib
import shutil

import pytest

from fmd_jax import inference, records, report
from fmd_jax.discover import discover
from tests.inference import api_servers
from tests.runs import small_config

KEY = "sk-very-secret-123"
COLOURS = ("red", "green", "blue", "black", "white", "grey")


def speak(body: dict) -> str:
  """Plays every role, told apart by its prompt."""
  system, user = body["messages"][:2]
  shown = [part for part in user["content"] if part["type"] == "image_url"]
  assert len(shown) == 1
  if system["content"].startswith("You look for"):
    colour = COLOURS[body["seed"] % len(COLOURS)]
    return (
      f"<response_1>Is there anything {colour} in the picture?</response_1>"
      "<response_2>What <|im_end|>is in the middle?</response_2>"
    )
  if system["content"].startswith("Answer"):
    return "yes"
  assert body["response_format"]["json_schema"]["strict"]
  right = "middle" not in user["content"][-1]["text"]
  names = ("grammatical", "atomic", "grounded", "objective", "correct")
  verdict = {name: {"why": "so", "ok": name != "correct" or right} for name in names}
  return "<think>Hm.</think>" + json.dumps(verdict)


@pytest.fixture
def photographs(tmp_path):
  import skimage

  folder = tmp_path / "photographs"
  folder.mkdir()
  source = pathlib.Path(skimage.__file__).parent / "data"
  found = [p for p in sorted(source.iterdir()) if p.suffix in (".png", ".jpg")]
  for path in found[:4]:
    shutil.copy(path, folder / path.name)
  return folder


@pytest.mark.slow
def test_zero_shot_by_api_alone(photographs, tmp_path, monkeypatch, caplog, capfd):
  # Wrong: a checkpoint is needed all the same; a call over the budget is paid for; the
  # second start pays again for what the first one got.
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  config = small_config()
  config.methods = ("zero_shot",)
  config.steps, config.images_per_step = 2, 2
  config.data.train = f"folder://{photographs}"
  config.data.heldout = f"folder://{photographs}?limit=2"
  workdir = tmp_path / "run"
  with api_servers.running("openai", speak) as server:
    for role in ("questioner", "answerer", "verifier", "evaluator"):
      config.roles[role] = f"openai://some/{role}@{server.url}"
    config.roles.embedder = "minilm://"
    config.budget.calls = 25
    config.budget.prices.verifier = (1.0, 2.0)
    with pytest.raises(inference.BudgetError, match="budget.calls is 25: .* goes on"):
      discover(config, workdir)
    paid = len(server.bodies)
    assert 0 < paid <= 25
    assert records.steps(workdir, "zero_shot") == [0]
    config.budget.calls = 1000
    server.plan = ["500", None, "malformed"]  # what may happen on the way
    metrics = discover(config, workdir)
    calls = [json.dumps(body, sort_keys=True) for body in server.bodies]
  # Each call once, but for those that failed: the cache has the rest.
  assert len(calls) - 2 == len(set(calls))
  spent = json.loads((workdir / "spending.json").read_text())
  assert sum(role["calls"] for role in spent.values()) == len(set(calls))
  assert spent["verifier"]["usd"] > 0 == spent["answerer"]["usd"]

  rows = records.read(workdir, "zero_shot")
  assert len(rows) == 2 * 2 * 3 * 2
  assert set(rows["status"]) == {"ok"}
  assert set(rows["answer"]) == {"yes"}
  assert "What is in the middle?" in set(rows["question"])
  assert (rows["verifier"] == "some/verifier").all()
  assert (rows["verifier_prompt"] == "judge/2").all()
  wrong = rows.loc[~rows["correct"].astype(bool), "question"]
  assert set(wrong) == {"What is in the middle?"}
  during = metrics["methods"]["zero_shot"]["during"]
  assert during["fdr"]["value"] == 0.5
  assert pathlib.Path(report.build(workdir)).is_file()
  # The key is in no file of the workdir (Parquet's are compressed), and was not said.
  said = capfd.readouterr()
  assert KEY not in rows.to_json() + caplog.text + said.out + said.err
  for path in workdir.rglob("*"):
    assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
