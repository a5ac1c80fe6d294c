"""Stage 4: a short GRPO on validity alone, after the questioner's fine-tuning.

Fine-tuning teaches the grammar in minutes and grounding hardly at all at temperature 1:
it says "the red circle" where there is none. The oracle's validity as the only reward
mends that in some hundred steps. A valid question of a skill or planted cell that is
rarer than it was meant to be earns more, in proportion, so that the safe skills don't
push out the rest: one whose questions are valid half of the time settles at about a
third of its share.
"""

import collections
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from fmd_jax import optim, rl
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.parsing import parse_response
from fmd_jax.types import ImageExample
from fmd_jax.update import TrainBatch, init_state, make_update_fn
from fmd_jax.world import drawing, png
from fmd_jax.world.oracle import QuestionVerdict, judge_question
from fmd_jax.world.scenes import Scene, sample_scene

_IMAGES, _GROUP = 12, 8
_MEMORY = 0.98  # of the running shares: of the last 10 000 questions, about
_LEAST, _MOST = 0.3, 10.0  # reward of a valid question
# Divided by a group's own std, a rare skill's high reward is worth no more than another
# group's 1, and half of its questions are invalid: it dies out (measured: LOG.md).
_STD_FLOOR = 1.0


class Shares:
  """Running shares of skills and planted cells among valid questions, and targets."""

  def __init__(self, weights: dict[str, float], cells: dict[str, float]):
    """Starts at the targets.

    Args:
      weights: of the skills, all their cells included.
      cells: of some cells, in the same unit; the rest of a skill is what is left.
    """
    own = dict(weights)
    for cell, weight in cells.items():
      own[cell.partition("/")[0]] -= weight
    if min(own.values()) <= 0:
      raise ValueError("the cells of a skill weigh no less than the skill")
    own |= cells
    total = sum(own.values())
    self.target = {name: w / total for name, w in own.items()}
    self.running = dict(self.target)
    self._cells = cells

  def name(self, verdict: QuestionVerdict) -> str:
    """The cell of a valid question that has a share of its own, or its skill."""
    own = (cell for cell in verdict.cells if cell in self._cells)
    return next(own, verdict.skills[0])

  def reward(self, name: str) -> float:
    """1, more for what is asked too rarely, less for what is asked too often."""
    ratio = self.target[name] / max(self.running[name], 1e-4)
    return min(max(ratio, _LEAST), _MOST)

  def update(self, names: list[str]) -> None:
    counts = collections.Counter(names)
    for name in self.running:
      now = counts[name] / max(len(names), 1)
      self.running[name] = _MEMORY * self.running[name] + (1 - _MEMORY) * now


def _rewards(
  texts: list[list[str]], scenes: list[Scene], k: int, shares: Shares
) -> tuple[np.ndarray, float]:
  """Mean reward of each response [B, G], and the share of valid slots."""
  rewards = np.zeros((len(scenes), _GROUP), np.float32)
  valid: list[str] = []
  for i, (group, scene) in enumerate(zip(texts, scenes, strict=True)):
    for g, text in enumerate(group):
      for question in parse_response(text, k):
        verdict = question and judge_question(question, scene)
        if verdict and verdict.valid:
          valid.append(shares.name(verdict))
          rewards[i, g] += shares.reward(valid[-1]) / k
        else:
          rewards[i, g] -= 1 / k
  shares.update(valid)
  return rewards, len(valid) / (rewards.size * k)


def polish(
  folder: str, kinds: tuple[int, ...], weights: dict[str, float],
  cells: dict[str, float], *,
  steps: int, learning_rate: float, beta: float, seed: int,
):  # fmt: skip
  """Trains the questioner of a folder; returns the model.

  Args:
    folder: the fine-tuned questioner.
    kinds: K of the responses; steps take turns.
    weights: the skills' intended weights.
    cells: those of some cells, as parts of their skills'.
    steps: GRPO steps.
    learning_rate: of AdamW; falls to a tenth.
    beta: weight of the KL to the fine-tuned model.
    seed: of scenes and sampling.
  """
  agents = {
    k: Agent(
      folder,
      questions=k,
      group_size=_GROUP,
      max_new_tokens=18 * k + 8,
      temperature=1.0,
    )
    for k in kinds
  }
  agent = agents[kinds[0]]
  optimizer = optim.make_optimizer(
    optim.learning_rate_schedule(
      learning_rate, warmup_steps=10, decay_steps=steps, end_scale=0.1
    ),
    b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, max_grad_norm=1.0,
  )  # fmt: skip
  state = init_state(agent.model, optimizer, ("visual",))
  update = make_update_fn(
    agent.graphdef,
    optimizer,
    beta=beta,
    clip=0.2,
    microbatches=1,
    temperature=1.0,
    allowed_tokens=agent.allowed_tokens,
    image_token_id=agent.model.config.image_token_id,
  )
  rng, start = random.Random(seed), time.time()
  shares = Shares(weights, cells)
  history: dict[int, list[float]] = collections.defaultdict(list)
  for step in range(steps):
    k = kinds[step % len(kinds)]
    scenes = [sample_scene(rng) for _ in range(_IMAGES)]
    images = [
      ImageExample(str(i), png.encode(drawing.render(scene), scene))
      for i, scene in enumerate(scenes)
    ]
    inputs = agents[k].prepare(images)
    key = jax.random.fold_in(jax.random.key(seed), step)
    samples = agents[k].sample((state.params, state.frozen), inputs, key)
    rewards, valid = _rewards(agents[k].texts(samples), scenes, k, shares)
    history[k].append(valid)
    mask = jnp.ones(rewards.shape, bool)
    batch = TrainBatch(
      prompt=inputs.prompt,
      completions=samples.tokens,
      lengths=samples.lengths,
      old_logprobs=samples.logprobs,
      advantages=rl.group_advantages(jnp.asarray(rewards), mask, _STD_FLOOR),
      response_mask=mask,
      image_features=samples.image_features,
    )
    state, metrics = update(state, batch)
    if (step + 1) % 30 == 0:
      recent = {k: f"{np.mean(v[-10:]):.3f}" for k, v in history.items()}
      rarest = min(shares.running, key=shares.running.get)
      logging.info(
        "polish %d/%d valid %s kl %.3f rarest %s %.4f (%.0f s)",
        step + 1, steps, recent, float(metrics["grpo/kl"]), rarest,
        shares.running[rarest], time.time() - start,
      )  # fmt: skip
  return agent.with_params((state.params, state.frozen))
