"""Teaches a copy of the questioner the second turn of ConMe, in a stage of its own.

  the questioner's own questions -> a made-up target's answers, some of them wrong
    -> "ask harder" -> other valid questions of its own, that go on from the mistakes

Nobody is asked: the target is right but for mistakes that are drawn evenly over what is
asked, so that nothing about any answerer's failures is learned. Whether an answer is
wrong the scene tells, and only here: afterwards the questioner has the picture and the
answers, as any ConMe questioner has. It says again what it says anyway, as in
rejection sampling: questions of the grammar would be less valid (stage 3 is).
"""

import collections
import random
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import logging
from flax import nnx

from fmd_jax import inference, models, prompts
from fmd_jax.data import Workers
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.testbed import dataset, language, recipe
from fmd_jax.types import ImageExample
from fmd_jax.world import drawing, png
from fmd_jax.world.answers import answer_type
from fmd_jax.world.oracle import QuestionVerdict, judge_question
from fmd_jax.world.scenes import (
  DIRECTIONS,
  LETTERS,
  QUADRANTS,
  VALUES,
  Scene,
  sample_scene,
)

BASE = recipe.FAMILY["two_turns"].starts_from
MISTAKES = 0.3  # of the made-up target's answers to valid questions
_ANSWERS = {
  **VALUES,
  "yes_no": ("yes", "no"),
  "count": tuple("012345"),
  "letter": LETTERS,
  "direction": DIRECTIONS,
  "quadrant": QUADRANTS,
}
_RESPONSES = 8  # to a scene, of `MOST` questions each
_MOST = max(recipe.QUESTIONER_KINDS)
_DIALOGUES = 4  # of a scene and K
_IMAGES = 12
_TOKENS = 18  # of a question, at most
_LAYOUT = language.Layout(pictures=12, rows=1, length=320, texts=4)
_HELDOUT_SEED = 9_500_000


class Said(NamedTuple):
  """A first turn: its questions (None: a slot not filled), and what was answered."""

  questions: list[str | None]
  answers: list[str]
  mistaken: list[QuestionVerdict]


def said(
  rng: random.Random, questions: Sequence[str | None], known: Sequence[QuestionVerdict]
) -> Said:
  """The made-up target's answers; to an invalid question any answer of its kind."""
  answers, mistaken = [], []
  for verdict in known:
    kind = answer_type(verdict.program) if verdict.program else "yes_no"
    others = [value for value in _ANSWERS[kind] if value != verdict.answer]
    if not verdict.valid:
      answers.append(rng.choice(others))
    elif rng.random() < MISTAKES:
      answers.append(rng.choice(others))
      mistaken.append(verdict)
    else:
      answers.append(verdict.answer)
  return Said(list(questions), answers, mistaken)


def goes_on(verdict: QuestionVerdict, mistaken: Sequence[QuestionVerdict]) -> int:
  """How near a valid question is to a mistake: 2 a cell in common, 1 the skill, 0."""
  if any(set(verdict.cells) & set(other.cells) for other in mistaken):
    return 2
  return int(any(verdict.skills[0] == other.skills[0] for other in mistaken))


def harder(
  rng: random.Random, first: Said, pool: Sequence[tuple[str, QuestionVerdict]], k: int
) -> list[str] | None:
  """K valid questions of the pool, none of them asked before, nearest to the mistakes.

  Args:
    rng: draws among equals; a question that the pool has twice is twice as likely.
    first: the first turn.
    pool: valid questions about the same picture with their verdicts.
    k: how many.

  Returns:
    None where the pool has too few others.
  """
  asked = {judged.program for question, judged in pool if question in first.questions}
  left = [(q, v) for q, v in pool if q not in first.questions]
  # The same question in other words is no new one.
  left = [(q, v) for q, v in left if v.program not in asked]
  chosen: list[str] = []
  while len(chosen) < k and left:
    nearest = max(goes_on(verdict, first.mistaken) for _, verdict in left)
    question, verdict = rng.choice(
      [(q, v) for q, v in left if goes_on(v, first.mistaken) == nearest]
    )
    chosen.append(question)
    left = [(q, v) for q, v in left if v.program != verdict.program]
  return chosen if len(chosen) == k else None


def dialogue(first: Said, k: int) -> prompts.Messages:
  """The second turn's prompt, as `methods.conme` renders it without descriptions."""
  return prompts.render(
    "conme_harder",
    first=prompts.render("questioner", k=k),
    k=k,
    response=prompts.response([q for q in first.questions if q]),
    questions=first.questions,
    answers=first.answers,
  )


def text_of(shop, first: Said, k: int, questions: list[str], scene: Scene):
  """A dialogue after its first prompt; only the last response is learned."""
  opening = shop.processor.chat(prompts.render("questioner", k=k))
  head = shop.processor.chat(dialogue(first, k)).removeprefix(opening)
  own = dataset.response_text(questions, scene, len(head))
  return dataset.Text(head + own.text, len(head), own.pointers)


class Asked(NamedTuple):
  """A scene, its picture and the questioner's responses to it."""

  scene: Scene
  image: ImageExample
  responses: list[str]


def ask(folder: str, seeds: range, k: int, group: int, seed: int) -> list[Asked]:
  """What the questioner of a folder asks about a scene a seed, at temperature 1."""
  agent = Agent(
    folder,
    questions=k,
    group_size=group,
    max_new_tokens=_TOKENS * k + 8,
    temperature=1.0,
  )
  params, done = nnx.state(agent.model), []
  for at in range(0, len(seeds), _IMAGES):
    # The last batch is filled up: one program for all.
    own = list(seeds[at : at + _IMAGES])
    scenes = [sample_scene(random.Random(s)) for s in own + own[-1:] * _IMAGES]
    images = [
      ImageExample(str(i), png.encode(drawing.render(scene), scene))
      for i, scene in enumerate(scenes[:_IMAGES])
    ]
    key = jax.random.fold_in(jax.random.key(seed), at)
    texts = agent.texts(agent.sample(params, agent.prepare(images), key))
    done += map(Asked, scenes[: len(own)], images, texts)
    if at // _IMAGES % 20 == 19:
      logging.info("asked about %d of %d scenes", len(done), len(seeds))
  return done


def _lessons(shop, seeds: range) -> tuple[list[dataset.Example], list]:
  """The scenes, and their encoded dialogues [N][kinds][n]."""
  rng, examples, texts = random.Random(shop.member.seed), [], []
  for scene, _, responses in ask(
    inference.checkpoint_folder(BASE), seeds, _MOST, _RESPONSES, shop.member.seed
  ):
    parsed = [parse_response(response, _MOST) for response in responses]
    known = {q: judge_question(q, scene) for row in parsed for q in row if q}
    pool = [(q, known[q]) for row in parsed for q in row if q and known[q].valid]
    kinds = []
    for k in recipe.QUESTIONER_KINDS:
      made = []
      for row in rng.sample(parsed, _DIALOGUES):
        questions = [q for q in row[:k] if q]
        first = said(rng, questions, [known[q] for q in questions])
        then = harder(rng, first, pool, k)
        if then:
          made.append(text_of(shop, first, k, then, scene))
      kinds.append(dataset.encode(shop.tokenizer, made) if made else [])
    if all(kinds):
      image, labels = drawing.render(scene), dataset.cell_labels(scene)
      examples.append(dataset.Example(image, labels, [], scene))
      texts.append(kinds)
  return examples, texts


def build(shop) -> None:
  """Leaves the questioner of the second turn in the workshop's folder."""
  if shop.saved("questioner"):
    return
  budget = shop.budget
  examples, texts = _lessons(shop, shop.seeds(0, budget.dialogue_scenes))
  model = models.load(inference.checkpoint_folder(BASE))
  model = language.train(
    model,
    [
      recipe.prompt_of(shop.processor, shop.config, "questioner", k=k)
      for k in recipe.QUESTIONER_KINDS
    ],
    shop.features(model, examples),
    texts,
    _LAYOUT,
    steps=budget.dialogue_steps,
    peak=budget.peak * 0.2,
    seed=shop.member.seed,
  )
  shop.save(model, "questioner")


def measure(folder: str, scenes: int, k: int) -> dict:
  """The second turn on held-out scenes, K questions after as many first ones.

  Args:
    folder: of the questioner that asks it; the first turn is the base's.
    scenes: how many, four dialogues each.
    k: questions a turn.

  Returns:
    "n" slots of the second turn and the shares "unparsed", "valid" and "repeated"
    (asked in the first turn); "first": of the first turns "valid".
  """
  seeds, rng = range(_HELDOUT_SEED, _HELDOUT_SEED + scenes), random.Random(k)
  agent = Agent(
    folder,
    questions=k,
    group_size=1,
    max_new_tokens=_TOKENS * k + 8,
    temperature=1.0,
  )
  params, workers = nnx.state(agent.model), Workers()
  begun = ask(inference.checkpoint_folder(BASE), seeds, k, _DIALOGUES, 1)
  count: collections.Counter = collections.Counter()
  for at in range(0, len(begun), _IMAGES):
    shown, dialogues, firsts = [], [], []
    for scene, image, responses in begun[at : at + _IMAGES]:
      for response in responses:
        questions = [q for q in parse_response(response, k) if q]
        known = [judge_question(q, scene) for q in questions]
        shown.append(image)
        firsts.append((scene, said(rng, questions, known)))
        dialogues.append(dialogue(firsts[-1][1], k))
    inputs = agent.place(agent.encode(shown, workers, dialogues))
    samples = agent.sample(params, inputs, jax.random.key(at))
    for i, (response,) in enumerate(agent.texts(samples)):
      scene, first = firsts[i]
      known = (judge_question(q, scene) for q in first.questions)
      count["first"] += sum(verdict.valid for verdict in known)
      for question in parse_response(response, k):
        count["n"] += 1
        count["unparsed"] += question is None
        count["repeated"] += question in first.questions
        count["valid"] += judge_question(question or "", scene).valid
  shares = {name: round(count[name] / count["n"], 4) for name in count if name != "n"}
  first_valid = shares.pop("first")
  return {"n": count["n"], **shares, "first": {"valid": first_valid}}
