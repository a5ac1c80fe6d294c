"""ConMe's two turns, with a questioner that is a script: any model spec can ask."""

import json
import types

import pytest

from fmd_jax import data, discover, inference, records, rollout
from fmd_jax.inference.engines.scripted import ScriptedEngine
from fmd_jax.methods import conme, training
from fmd_jax.methods.run import Run
from fmd_jax.questioner.remote import RemoteAgent
from tests.runs import small_config

B, G, K = 2, 4, 2
SCRIPT = '''
import json


def ask(request):
  """Tells in its questions what it was shown."""
  texts = [m["content"] for m in request.messages]
  last = texts[-1] if isinstance(texts[-1], str) else texts[-1][-1]["text"]
  if last.startswith("Describe"):
    return "<think>hm</think>I see SEVEN things"
  name = f"{request.seed % 1000}"
  if "The model answered" in last:
    said, _ = json.JSONDecoder().raw_decode(last[last.index("["):])
    return "".join(
      f"<response_{i}>{s['question']} You said {s['answer']}, sure?</response_{i}>"
      for i, s in enumerate(said, 1)
    )
  seen = "seven" if "SEVEN" in last and "NOTHING" in last else "plain"
  # Of every fourth response the second slot is missing.
  first = f"<response_1>Is {seen} {name} red?</response_1>"
  return first + f"<response_2>Is {seen} {name} big?</response_2>" * (int(name) % 4 > 0)


def answer(request):
  if "question" not in request.fields:
    return "I see NOTHING"
  return "no-" + request.fields["question"].split()[2]


def vector(text):
  return [len(text), 1.0]
'''
VERDICT = json.dumps(
  {
    name: {"ok": True, "why": ""}
    for name in ("grammatical", "atomic", "grounded", "objective", "correct")
  }
)


@pytest.fixture
def script(tmp_path):
  path = tmp_path / "roles.py"
  path.write_text(SCRIPT)
  return path


def two_turns(script, describe, params=(None, None)):
  """The rows (image, response, turn, question, answer) of one batch, and numbers."""
  from fmd_jax.inference.engines import scripted

  config = small_config(images_per_step=B, group_size=G)
  config.conme.describe = describe
  config.roles.questioner = f"scripted://{script}:ask"
  agent = training.make_remote_agent(config, scripted.load(f"{script}:ask"))
  verifier = ScriptedEngine(lambda request: VERDICT, "verifier", "")
  answerer = scripted.load(f"{script}:answer")
  images = data.open("testbed://?split=train&size=8")
  run = Run(
    config, script.parent, "id", agent, rollout.Roles(answerer, verifier, None), images,
    images,
  )  # fmt: skip
  batch = next(run.batches(0))
  inputs = agent.place(agent.encode(batch, run.workers))
  return conme.two_turns(run, params, batch, inputs, run.key(0), 0)


@pytest.mark.parametrize("describe", [False, True])
def test_the_second_turn_follows_the_answers_to_its_own_first(script, describe):
  result, numbers = two_turns(script, describe)
  assert result.mask.shape == (B, G)
  places = [(q.image_id, q.response_index, q.slot) for q, _, _ in result.slots]
  # As records are read: by image, response, slot; a row twice or none would show.
  images = list(dict.fromkeys(image for image, _, _ in places))
  assert places == [(i, g, k) for i in images for g in range(G) for k in range(K)]
  by_place = dict(zip(places, result.slots, strict=True))
  pairs = 0
  for (image, g, k), (question, answer, _) in by_place.items():
    assert question.turn == (g >= G // 2)
    if g < G // 2 and question.text:
      assert ("seven" in question.text) == describe
      then = by_place[image, g + G // 2, k][0]
      # Another response's answers, or another image's, would name another number.
      assert then.text == f"{question.text} You said {answer.text}, sure?"
      pairs += 1
  assert pairs > B
  asked = len({(q.image_id, q.text) for q, _, _ in result.slots if q.text})
  assert result.calls["answerer_calls"] == asked + (B if describe else 0)
  assert numbers["conme/qvr_first"] <= 1 and numbers["conme/fdr_second"] == 0


def test_the_second_turn_is_asked_with_parameters_of_its_own(script, monkeypatch):
  sample, asked_with = RemoteAgent.sample, []

  def told(self, params, inputs, key):
    asked_with.append(params)
    return sample(self, None, inputs, key)

  monkeypatch.setattr(RemoteAgent, "sample", told)
  two_turns(script, True, ("first", "second"))
  # Describe, compare and ask, ask harder.
  assert asked_with == ["first", "first", "second"]


def test_who_asks_the_second_turn_must_fit_who_asks_the_first():
  config = small_config(group_size=G)
  config.conme.questioner = "hf://testbed/questioner_small"
  folder = inference.checkpoint_folder("hf://testbed/questioner")
  agent = training.make_agent(config, folder)
  run = types.SimpleNamespace(config=config, agent=agent)
  with pytest.raises(ValueError, match="config.conme.questioner is .*_small.*another"):
    conme.run(run)


def test_a_model_behind_a_spec_asks_zero_shot_and_conme(script, tmp_path):
  config = small_config(images_per_step=B, group_size=G, steps=2)
  config.methods = ("zero_shot", "conme")
  config.conme.questioner = ""
  for role, name in (("questioner", "ask"), ("answerer", "answer")):
    config.roles[role] = f"scripted://{script}:{name}"
  config.roles.embedder = f"scripted://{script}:vector"
  discover.discover(config, tmp_path / "run")
  for method in config.methods:
    rows = records.read(tmp_path / "run", method)
    assert len(rows) == 2 * B * G * K
    # Another seed for each response, so that they are not copies of one.
    assert rows.groupby(["step", "image_id", "response_index"]).ngroups == 2 * B * G
    assert rows["question"].nunique() > G
    told = {"questioner/1"} if method == "zero_shot" else {"conme/1"}
    assert told <= set(rows["questioner_prompt"]) <= {*told, "questioner/1"}
  manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
  # A name and a revision, never an address or a path.
  assert manifest["models"]["questioner"].startswith("scripted/roles.py:ask@")
  spent = records.totals(tmp_path / "run", "budget")
  assert "questioner_tokens" not in spent["zero_shot"]
