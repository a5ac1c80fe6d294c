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
from fmd_jax.rewards import prefix
from fmd_jax.testbed import census, dataset, recipe, two_turns
from fmd_jax.testbed.planted import BLIND_SPOTS, blind_spot
from fmd_jax.types import ImageExample
from fmd_jax.world import drawing, png
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.questions import UNIFORM, sample_question
from fmd_jax.world.scenes import sample_scene
from fmd_jax.world.skills import EASY_SKILLS, SKILLS, skills

ASSETS = pathlib.Path(__file__).parent / "assets"
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
      spot = blind_spot(verdict, shop.member.spots)
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
  openers, planted = collections.Counter(), collections.Counter()
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
          openers[prefix(text)] += 1
          spot = blind_spot(verdict, shop.member.spots)
          planted[spot.cell if spot else None] += 1
        else:
          failed = next(n for n, ok in vars(verdict).items() if ok is False)
          reasons[f"{failed}: {verdict.reasons[failed]}"] += 1
  total, valid = sum(reasons.values()), max(reasons["valid"], 1)
  spots = [spot.cell for spot in BLIND_SPOTS[shop.member.spots]]
  return {
    "n": total,
    "valid": reasons["valid"] / total,
    "openers": sum(count for _, count in openers.most_common(3)) / valid,
    "invalid": {r: c / total for r, c in reasons.most_common() if r != "valid"},
    "skills": {s: asked[s] / valid for s in SKILLS},
    "planted": {cell: planted[cell] / valid for cell in spots},
  }


def measure(shop: recipe.Workshop) -> dict:
  """The models' numbers on held-out scenes."""
  scenes = shop.budget.heldout
  files = {
    role: shop.workdir / role / "model.safetensors" for role in shop.member.roles
  }
  report: dict = {"bytes": {role: file.stat().st_size for role, file in files.items()}}
  if shop.member.starts_from:
    folder = str(shop.workdir / "questioner")
    report["second_turn"] = {
      str(k): two_turns.measure(folder, max(scenes // (2 * k), 4), k)
      for k in recipe.QUESTIONER_KINDS
    }
    return report
  report |= {
    "spots": [spot.cell for spot in BLIND_SPOTS[shop.member.spots]],
    "answerer": measure_answerer(shop, scenes),
  }
  if shop.member.asks:
    report["questioner"] = {
      # Ten questions a held-out scene: a share of 0.3 % is then a dozen.
      str(k): measure_questioner(shop, max(10 * scenes // (_RESPONSES * k), 16), k)
      for k in recipe.QUESTIONER_KINDS
    }
  return report


def text(card: dict[str, dict]) -> str:
  """The card of the sets made so far, as Markdown."""
  return "\n".join([_HEAD, *(_section(name, report) for name, report in card.items())])


_HEAD = f"""# The testbed's checkpoints

Models of Qwen's architectures (fp32), made from nothing by
`python -m launch.build_testbed --member NAME`. They know 112 x 112 pictures of this
project's world and nothing else.

Answerers: exact greedy answers on held-out scenes. Easy skills:
{", ".join(EASY_SKILLS)}. Planted blind spots (wrong labels in training, always the
same way) are left out of the skills' rows. Questioners: share of valid questions at
temperature 1, by the oracle, on held-out scenes; then what they ask about.
"""


def _section(name: str, report: dict) -> str:
  if "second_turn" in report:
    return _second_turn(name, report)
  own, family = report["answerer"], recipe.FAMILY[name].size.family
  sizes = ", ".join(f"{role} {b / 1e6:.1f} MB" for role, b in report["bytes"].items())
  lines = [
    f"## {name}",
    "",
    f"{family}: {sizes}",
    "",
    "| skill or cell | accuracy | n |",
    "|---|---|---|",
  ]
  known = [
    *(s for s in SKILLS if s in own),
    *(n for n in own if n.startswith("planted")),
  ]
  lines += [f"| {n} | {own[n]['accuracy']:.3f} | {own[n]['n']} |" for n in known]
  asked = report.get("questioner", {})
  if asked:
    lines += ["", "| K | valid | n | three openers |", "|---|---|---|---|"]
    lines += [
      f"| {k} | {r['valid']:.3f} | {r['n']} | {r['openers']:.2f} |"
      for k, r in asked.items()
    ]
    lines += [
      "",
      f"| share of valid questions | {' | '.join(f'K = {k}' for k in asked)} |",
    ]
    lines += ["|---" * (1 + len(asked)) + "|"]
    lines += [
      f"| {s} | {' | '.join(f'{r[kind][s]:.4f}' for r in asked.values())} |"
      for kind in ("skills", "planted")
      for s in next(iter(asked.values()))[kind]
    ]
  return "\n".join([*lines, ""])


def _second_turn(name: str, report: dict) -> str:
  member = recipe.FAMILY[name]
  lines = [
    f"## {name}",
    "",
    f"A copy of {member.starts_from}, {report['bytes']['questioner'] / 1e6:.1f} MB, "
    "fine-tuned on dialogues of two turns: its own questions, the answers of a made-up",
    "target whose mistakes are drawn evenly, then valid questions of its own that go",
    "on from the mistakes. ConMe's second turn is asked by it",
    "(`config.conme.questioner`). At temperature 1, by the oracle, on held-out scenes.",
    "In brackets: of the first turn.",
    "",
    "| K | unparsed | valid | asked before | n |",
    "|---|---|---|---|---|",
  ]
  for k, row in report["second_turn"].items():
    valid = f"{row['valid']:.3f} ({row['first']['valid']:.3f})"
    lines.append(
      f"| {k} | {row['unparsed']:.4f} | {valid} | {row['repeated']:.3f} | {row['n']} |"
    )
  return "\n".join([*lines, ""])


def asset_name(member: str, role: str) -> str:
  """The folder of a member's model among the assets, and its name in specs."""
  return role if member == "base" else f"{role}_{member}"


def install(shop: recipe.Workshop, report: dict) -> None:
  """Replaces the package's checkpoints of one set, its census and part of the card."""
  ASSETS.mkdir(exist_ok=True)
  for role in shop.member.roles:
    name = asset_name(shop.name, role)
    shutil.copytree(shop.workdir / role, ASSETS / name, dirs_exist_ok=True)
    if role == "answerer":
      census.write(ASSETS / name, report["spots"])
  path = ASSETS / "card.json"
  card = json.loads(path.read_text()) if path.is_file() else {}
  card = {
    name: report if name == shop.name else card.get(name) for name in recipe.FAMILY
  }
  card = {name: known for name, known in card.items() if known}
  path.write_text(json.dumps(card, indent=2) + "\n")
  (ASSETS / "README.md").write_text(text(card))
