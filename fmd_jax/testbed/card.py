"""What the checkpoints can do, measured, and their card."""

import collections
import json
import pathlib
import random
import shutil

import jax
import numpy as np
from flax import nnx

from fmd_jax import models
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.testbed import dataset, recipe
from fmd_jax.testbed.planted import BLIND_SPOTS, blind_spot
from fmd_jax.types import ImageExample
from fmd_jax.world import drawing, png
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.questions import UNIFORM, sample_question
from fmd_jax.world.scenes import sample_scene
from fmd_jax.world.skills import EASY_SKILLS, SKILLS, skills

ASSETS = pathlib.Path(__file__).parent / "assets"
NAMES = ("answerer", "questioner")
_HELDOUT_SEED = 9_000_000
_PER_SCENE = 18
_RESPONSES = 4


def measure_answerer(shop: recipe.Workshop, scenes: int) -> dict[str, dict]:
  """Exact greedy answers against the truth, by skill and by planted cell.

  Returns:
    name -> {"accuracy", "n"}; planted cells count in their own row only.
  """
  model = models.load(shop.workdir / "answerer")
  rng = random.Random(_HELDOUT_SEED)
  examples, verdicts = [], []
  for _ in range(scenes):
    scene = sample_scene(rng)
    asked = [sample_question(rng, scene, UNIFORM) for _ in range(_PER_SCENE)]
    texts = []
    for question in asked:
      head = question.text + dataset.TURN
      answer = question.verdict.answer + dataset.END
      texts.append(dataset.Text(head + answer, len(head), []))
    image = drawing.render(scene)
    examples.append(dataset.Example(image, dataset.cell_labels(scene), texts, scene))
    verdicts.append([question.verdict for question in asked])
  encoded = [dataset.encode(shop.tokenizer, e.texts) for e in examples]
  prompt = recipe.prompt_of(shop.processor, shop.config, "answerer")
  right = recipe.exact_matches(model, prompt, shop.features(model, examples), encoded)
  hits = collections.defaultdict(list)
  for row, known in zip(right, verdicts, strict=True):
    for hit, verdict in zip(row, known, strict=True):
      if hit is None:
        continue
      spot = blind_spot(verdict)
      name = f"planted {spot.cell}" if spot else skills(verdict.program)[0]
      hits[name].append(hit)
  return {
    name: {"accuracy": float(np.mean(values)), "n": len(values)}
    for name, values in sorted(hits.items())
  }


def measure_questioner(shop: recipe.Workshop, scenes: int, k: int) -> dict:
  """Validity at temperature 1 by the oracle, and what is asked about."""
  agent = Agent(
    str(shop.workdir / "questioner"),
    questions=k,
    group_size=_RESPONSES,
    max_new_tokens=96,
    temperature=1.0,
  )
  rng, size = random.Random(_HELDOUT_SEED + 1), 16
  reasons, asked = collections.Counter(), collections.Counter()
  params = nnx.state(agent.model)
  for step in range(-(-scenes // size)):
    drawn = [sample_scene(rng) for _ in range(size)]
    images = [
      ImageExample(str(i), png.encode(drawing.render(scene), scene))
      for i, scene in enumerate(drawn)
    ]
    samples = agent.sample(params, agent.prepare(images), jax.random.key(step))
    for scene, group in zip(drawn, agent.texts(samples), strict=True):
      for text in (t for response in group for t in parse_response(response, k)):
        if text is None:
          reasons["unparsed"] += 1
          continue
        verdict = judge_question(text, scene)
        if verdict.valid:
          reasons["valid"] += 1
          asked[verdict.skills[0]] += 1
        else:
          failed = next(n for n, ok in vars(verdict).items() if ok is False)
          reasons[f"{failed}: {verdict.reasons[failed]}"] += 1
  total = sum(reasons.values())
  return {
    "n": total,
    "valid": reasons["valid"] / total,
    "invalid": {r: c / total for r, c in reasons.most_common() if r != "valid"},
    "skills": {s: asked[s] / max(reasons["valid"], 1) for s in SKILLS},
  }


def measure(shop: recipe.Workshop) -> dict:
  """Both models' numbers on held-out scenes."""
  scenes = shop.budget.heldout
  files = [shop.workdir / name / "model.safetensors" for name in NAMES]
  return {
    "bytes": {f.parent.name: f.stat().st_size for f in files},
    "answerer": measure_answerer(shop, scenes),
    "questioner": {
      str(k): measure_questioner(shop, max(scenes // 4, 16), k)
      for k in recipe.QUESTIONER_KINDS
    },
  }


def text(report: dict) -> str:
  """The card, as Markdown."""
  own = report["answerer"]
  rows = [(n, own[n]) for n in SKILLS if n in own]
  rows += [(n, v) for n, v in own.items() if n.startswith("planted")]
  table = "\n".join(f"| {n} | {v['accuracy']:.3f} | {v['n']} |" for n, v in rows)
  spots = ", ".join(f"`{spot.cell}`" for spot in BLIND_SPOTS)
  validity = "\n".join(
    f"| {k} | {r['valid']:.3f} | {r['n']} |" for k, r in report["questioner"].items()
  )
  sizes = ", ".join(f"{n} {b / 1e6:.1f} MB" for n, b in report["bytes"].items())
  return f"""# The testbed's checkpoints

Two models of the Qwen2.5-VL architecture ({sizes}; fp32), made from nothing by
`python -m launch.build_testbed`. They know 112 x 112 pictures of this project's world
and nothing else.

## The answerer

Exact greedy answers on held-out scenes. Easy skills: {", ".join(EASY_SKILLS)}. Planted
blind spots (wrong labels in training, always the same way): {spots}; they are left out
of the skills' rows.

| skill or cell | accuracy | n |
|---|---|---|
{table}

## The questioner

Share of valid questions at temperature 1, by the oracle, on held-out scenes.

| K | valid | n |
|---|---|---|
{validity}
"""


def install(shop: recipe.Workshop, report: dict) -> None:
  """Replaces the package's checkpoints and card."""
  ASSETS.mkdir(exist_ok=True)
  for name in NAMES:
    shutil.copytree(shop.workdir / name, ASSETS / name, dirs_exist_ok=True)
  (ASSETS / "card.json").write_text(json.dumps(report, indent=2) + "\n")
  (ASSETS / "README.md").write_text(text(report))
