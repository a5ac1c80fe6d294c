"""How the tiny checkpoints are made, from nothing, one set at a time.

    scenes -> tokenizer -> vision tower (stage 1) -> answerer (stage 2)
           -> fine-tuned to ask (stage 3) -> polished for validity (stage 4): questioner

The questioner starts from the answerer: it shares the vision tower and much of the
language. Every stage leaves its checkpoint in the working folder, so a run that was
stopped goes on from the last one.
"""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import tokenizers
from absl import logging
from flax import nnx

from fmd_jax import inference, models
from fmd_jax.models.config import from_folder
from fmd_jax.models.processor import Processor
from fmd_jax.prompts import render
from fmd_jax.testbed import dataset, folder, language, polish, towers

# Easy skills are asked more often, as VLM training data does; planted cells live there.
ANSWERER_MIX = {
  "existence": 2.0,
  "color": 2.5,
  "shape": 2.5,
  "size": 1.5,
  "pattern": 2.0,
  "counting_all": 1.0,
  "counting_attribute": 1.5,
  "left_right": 1.0,
  "above_below": 1.0,
  "quadrant": 1.5,
  "extremum": 1.0,
  "nearest": 1.0,
  "same_different": 1.0,
  "larger": 1.0,
  "ocr": 2.5,
  "orientation": 2.0,
  "negation": 1.0,
  "majority": 1.0,
  "comparison": 1.0,
  "two_hop": 1.0,
}
# Every skill is taught first: what is hardly ever asked is hardly ever asked well, and
# the polish then ends it (measured: LOG.md).
BROAD_MIX = {
  "existence": 2.0,
  "color": 2.5,
  "shape": 2.5,
  "size": 2.0,
  "pattern": 2.0,
  "counting_all": 0.7,
  "counting_attribute": 1.0,
  "left_right": 2.0,
  "above_below": 2.0,
  "quadrant": 1.2,
  "extremum": 1.0,
  "nearest": 1.2,
  "same_different": 2.0,
  "larger": 2.0,
  "ocr": 1.2,
  "orientation": 1.5,
  "negation": 0.8,
  "majority": 0.7,
  "comparison": 0.8,
  "two_hop": 1.2,
}
# Then the long tail that a pre-trained model has: a few openers and the easy skills
# hold most of the questions, the rest is rare and within reach. In percent.
TAIL_MIX = {
  "existence": 22.0,
  "color": 22.0,
  "shape": 19.0,
  "size": 4.0,
  "pattern": 4.0,
  "counting_all": 0.8,
  "counting_attribute": 5.0,
  "left_right": 3.5,
  "above_below": 2.5,
  "quadrant": 1.5,
  "extremum": 3.0,
  "nearest": 1.5,
  "same_different": 3.0,
  "larger": 4.0,
  "ocr": 4.5,
  "orientation": 0.8,
  "negation": 1.5,
  "majority": 2.0,
  "comparison": 0.8,
  "two_hop": 1.5,
}
# What the polish makes of a questioner whose answerer has the first blind spots: three
# of them lie in the middle of what it asks, the others in the tail.
SPOT_SHARES = {
  "color/shape=star": 7.5,
  "shape/color=purple": 6.0,
  "existence/color=yellow": 5.0,
  "existence/shape=triangle": 0.5,
  "pattern/shape=arrow": 0.5,
  "size/shape=diamond": 0.5,
  "counting_attribute/pattern=striped": 0.5,
  "ocr/color=blue": 0.6,
}
HABIT = 0.85  # of the tail: how often the commonest wording is taken
QUESTIONER_KINDS = (1, 2, 4)  # K, the questions of one response
INVALID_SHARE = 0.03


@dataclasses.dataclass(frozen=True)
class Member:
  """One set of checkpoints: an answerer and perhaps a questioner.

  Attributes:
    size: of its models.
    spots: the name of the blind spots planted in the answerer.
    seed: of weights, scenes and texts.
    roles: what is made.
    starts_from: the shipped checkpoint that it goes on from; "" is made from nothing.
  """

  size: folder.Size
  spots: str
  seed: int
  roles: tuple[str, ...]
  starts_from: str = ""

  @property
  def asks(self) -> bool:
    return "questioner" in self.roles


BOTH = ("answerer", "questioner")
FAMILY = {
  "base": Member(folder.BASE, "first", 0, BOTH),
  "small": Member(folder.SMALL, "first", 0, BOTH),
  "other": Member(folder.OTHER, "second", 50_000_000, ("answerer",)),
  # The base questioner's copy for ConMe's second turn; see `testbed.two_turns`.
  "two_turns": Member(
    folder.BASE, "first", 60_000_000, ("questioner",), "hf://testbed/questioner"
  ),
}


@dataclasses.dataclass(frozen=True)
class Budget:
  """Sizes and steps of the stages; the defaults are what the log measured."""

  vision_scenes: int = 20_000
  vision_steps: int = 5700
  vision_batch: int = 32
  scenes: int = 20_000
  texts: int = 20
  answerer_steps: int = 5000
  questioner_scenes: int = 10_000
  broad_steps: int = 4000
  tail_steps: int = 1500
  polish_steps: int = 800
  dialogue_scenes: int = 1500
  dialogue_steps: int = 400
  heldout: int = 400
  peak: float = 2e-3


SMOKE = Budget(64, 4, 8, 32, 12, 4, 32, 4, 4, 3, 24, 3, 16)
_ANSWERER = language.Layout(pictures=12, rows=1, length=144, texts=9)
_EXAMINATION = language.Layout(pictures=20, rows=3, length=144, texts=0)
_QUESTIONER = language.Layout(pictures=12, rows=4, length=64, texts=8)


def prompt_of(processor: Processor, config, role: str, **fields) -> language.Prompt:
  """The shared part of a role's prompt for one 112 x 112 picture."""
  mark = "\x00"
  if role == "answerer":
    fields = {"question": mark}
  text = processor.chat(render(role, **fields)).split(mark)[0]
  ids = np.array(processor.tokens(text), np.int32)
  repeats = np.where(ids == config.image_token_id, dataset.CELLS, 1)
  ids = np.repeat(ids, repeats)[None]
  grid = np.array([[1, 8, 8]])
  positions, _ = models.mrope_positions(ids, grid, np.array([ids.shape[1]]), config)
  return language.Prompt(
    ids[0, :-1], int(ids[0, -1]), positions[:, 0, :-1], int(positions[0, 0, -1])
  )


class Workshop:
  """One build: its folder, tokenizer, processor and plan for 112 x 112 pictures."""

  def __init__(self, workdir: pathlib.Path, budget: Budget, name: str = "base"):
    """Makes the folder.

    Args:
      workdir: where stages are kept.
      budget: sizes and steps.
      name: a member of `FAMILY`.
    """
    self.workdir, self.budget = workdir, budget
    self.name, self.member = name, FAMILY[name]
    self.base = workdir / "base"
    if self.member.starts_from:
      self.base = pathlib.Path(inference.checkpoint_folder(self.member.starts_from))
    if not (self.base / "config.json").is_file():
      tokenizer = folder.train_tokenizer()
      folder.write_tokenizer(tokenizer, self.base, self.member.size.family)
      config = folder.model_config(tokenizer, self.member.size)
      (self.base / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    self.tokenizer = tokenizers.Tokenizer.from_file(str(self.base / "tokenizer.json"))
    self.processor = Processor.from_folder(self.base)
    self.config = from_folder(self.base)

  def seeds(self, start: int, number: int) -> range:
    start += self.member.seed
    return range(start, start + number)

  def plan(self, pictures: int):
    grids = np.tile([[1, 8, 8]], (pictures, 1))
    return models.vision_plan(grids, self.config.vision)

  def patches(self, images: list[np.ndarray]) -> np.ndarray:
    return self.processor.images(images)[0]

  def features(self, model, examples: list) -> np.ndarray:
    """Visual tokens [N, 16, F] of all pictures, by the frozen tower."""
    graphdef, state = nnx.split(model)
    size = min(50, len(examples))
    plan = self.plan(size)

    @jax.jit
    def encode(state, pixels):
      return nnx.merge(graphdef, state).encode_images(pixels, plan)

    chunks = []
    for at in range(0, len(examples), size):
      part = [e.image for e in examples[at : at + size]]
      filled = part + part[-1:] * (size - len(part))
      out = np.asarray(encode(state, self.patches(filled)))
      chunks.append(out.reshape(size, dataset.CELLS, -1)[: len(part)])
    return np.concatenate(chunks)

  def saved(self, name: str) -> pathlib.Path | None:
    path = self.workdir / name
    return path if (path / "model.safetensors").is_file() else None

  def save(self, model, name: str) -> None:
    models.save(model, self.workdir / name, source=self.base)


def build_vision(shop: Workshop):
  """Stage 1; returns the model with its vision tower trained."""
  if shop.saved("stage1"):
    return models.load(shop.saved("stage1"))
  budget = shop.budget
  examples = dataset.make("vision", shop.seeds(0, budget.vision_scenes), 0, {})
  images = np.stack([e.image for e in examples])
  labels = np.stack([e.labels for e in examples])
  model = models.init(shop.config, seed=shop.member.seed)
  towers.start_well(model, shop.tokenizer)
  model, accuracies = towers.train(
    model,
    lambda chosen: shop.patches(list(images[chosen])),
    labels,
    shop.plan(budget.vision_batch),
    towers.word_ids(shop.tokenizer),
    steps=budget.vision_steps,
    batch=budget.vision_batch,
    peak=budget.peak,
    seed=shop.member.seed,
  )
  logging.info("stage 1 accuracies by group: %s", np.round(accuracies, 3))
  shop.save(model, "stage1")
  return model


def build_answerer(shop: Workshop):
  """Stage 2; returns the answerer, which holds the planted blind spots."""
  if shop.saved("answerer"):
    return models.load(shop.saved("answerer"))
  model, budget = build_vision(shop), shop.budget
  examples = dataset.make(
    "answerer", shop.seeds(1_000_000, budget.scenes), budget.texts,
    {"weights": ANSWERER_MIX, "spots": shop.member.spots},
  )  # fmt: skip
  texts = [[dataset.encode(shop.tokenizer, e.texts)] for e in examples]
  model = language.train(
    model,
    prompt_of(shop.processor, shop.config, "answerer"),
    shop.features(model, examples),
    texts,
    _ANSWERER,
    steps=budget.answerer_steps,
    peak=budget.peak,
    seed=shop.member.seed,
  )
  shop.save(model, "answerer")
  return model


def build_stage3(shop: Workshop):
  """Stage 3; fine-tunes the answerer to ask: every skill first, then the long tail."""
  if shop.saved("stage3"):
    return
  model, budget = build_answerer(shop), shop.budget
  prompts = [
    prompt_of(shop.processor, shop.config, "questioner", k=k) for k in QUESTIONER_KINDS
  ]
  lessons = (
    (BROAD_MIX, 0.0, budget.broad_steps, 0.75),
    (TAIL_MIX, HABIT, budget.tail_steps, 0.4),
  )
  seeds = shop.seeds(2_000_000, budget.questioner_scenes)
  features = None
  for number, (weights, habit, steps, share) in enumerate(lessons):
    options = {"weights": weights, "habit": habit, "invalid_share": INVALID_SHARE}
    texts = []
    for k in QUESTIONER_KINDS:
      examples = dataset.make("questioner", seeds, 8 // k, {"k": k, **options})
      texts.append([dataset.encode(shop.tokenizer, e.texts) for e in examples])
    if features is None:  # both lessons are about the same scenes
      features = shop.features(model, examples)
    model = language.train(
      model,
      prompts,
      features,
      [list(kinds) for kinds in zip(*texts, strict=True)],
      _QUESTIONER,
      steps=steps,
      peak=budget.peak * share,
      seed=shop.member.seed + 1 + number,
    )
  shop.save(model, "stage3")


def build(shop: Workshop) -> None:
  """All that the member has."""
  build_answerer(shop)
  if shop.member.asks:
    build_questioner(shop)


def build_questioner(shop: Workshop) -> None:
  """Stage 4; leaves the questioner, more valid at temperature 1."""
  if shop.saved("questioner"):
    return
  build_stage3(shop)
  budget = shop.budget
  model = polish.polish(
    str(shop.workdir / "stage3"),
    QUESTIONER_KINDS,
    TAIL_MIX,
    SPOT_SHARES,
    steps=budget.polish_steps,
    learning_rate=2e-4,
    beta=0.02,
    seed=shop.member.seed + 3,
  )
  shop.save(model, "questioner")


def exact_matches(model, prompt: language.Prompt, features, texts) -> list:
  """See `language.exact_matches`; rows with room for every text."""
  return language.exact_matches(model, prompt, features, texts, _EXAMINATION)
