"""What every method of one run shares: its options, models, images and workdir."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import jax
import ml_collections
import numpy as np

from fmd_jax import data, rollout
from fmd_jax.progress import Progress
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.inputs import Inputs
from fmd_jax.records.writer import write_image, write_shard
from fmd_jax.types import ImageExample


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a config.

  Attributes:
    config: resolved; `config.json` holds the same.
    workdir: where everything goes.
    run_id: of the manifest.
    agent: the untrained questioner.
    roles: the models it plays against.
    train, heldout: images asked about while training, and afterwards.
    workers: who read and prepare images ahead.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  run_id: str
  agent: Agent
  roles: rollout.Roles
  train: data.Source
  heldout: data.Source
  workers: data.Workers = dataclasses.field(default_factory=data.Workers)

  @property
  def reward(self) -> rollout.RewardOptions:
    c = self.config.reward
    return rollout.RewardOptions(
      terms=tuple(c.terms),
      lambda_scale=c.lambda_scale,
      lambda_penalty=c.lambda_penalty,
      prefix_length=c.prefix_length,
      lexical=c.lexical,
      aggregate=c.aggregate,
    )

  @property
  def limits(self) -> rollout.Limits:
    return rollout.Limits(
      answer_tokens=self.config.answerer.max_tokens,
      judge_tokens=self.config.judge.max_tokens,
      retries=self.config.judge.retries,
      votes=self.config.judge.votes,
      agreement=self.config.judge.agreement,
      guesses=self.config.judge.guesses,
    )

  def key(self, step: int, stream: int = 0) -> jax.Array:
    """The random key of a step: a resumed run draws what it would have drawn."""
    root = jax.random.key(self.config.seed)
    return jax.random.fold_in(jax.random.fold_in(root, stream), step)

  def batches(self, start: int) -> Iterator[list[ImageExample]]:
    """This process's part of each step's images, from the step `start` on."""
    host, hosts = jax.process_index(), jax.process_count()
    size = self.config.images_per_step // hosts
    return data.batches(
      self.train, size, self.config.seed, start, host, hosts, self.workers
    )

  def prepared(
    self, batches: Iterator[list[ImageExample]], steps: int
  ) -> Iterator[tuple[list[ImageExample], Inputs]]:
    """Batches for so many steps, and what the questioner sees of them.

    The workers make those of the next step while this one runs.
    """
    some = itertools.islice(batches, max(steps, 0))
    encoded = ((images, self.agent.encode(images, self.workers)) for images in some)
    for images, batch in self.workers.ahead(encoded):
      yield images, self.agent.place(batch)

  def judge(self, images, texts, banks, step: int) -> rollout.Rollout:
    """Answers, judges and, with banks, scores the responses of one step."""
    return rollout.judge_responses(
      images,
      texts,
      self.roles,
      banks,
      k=self.config.questions_per_image,
      reward=self.reward,
      limits=self.limits,
      seed=self.config.seed + step,
    )

  def write(
    self,
    images: Sequence[ImageExample],
    result: rollout.Rollout,
    *,
    method: str,
    split: str,
    step: int,
    questioner_step: int,
    advantages: np.ndarray | None = None,
  ) -> None:
    """Writes this host's shard of one step and the images it refers to."""
    common: Mapping[str, object] = {
      "run_id": self.run_id,
      "method": method,
      "split": split,
      "step": step,
      "questioner_step": questioner_step,
    }
    rows = rollout.records(
      result,
      common=common,
      prefix_length=self.config.reward.prefix_length,
      roles=self.roles,
      advantages=advantages,
    )
    for image in images:
      write_image(self.workdir, image)
    write_shard(
      self.workdir,
      method,
      split,
      step,
      rows,
      host=jax.process_index(),
      hosts=jax.process_count(),
    )


def ask_heldout(run: Run, method: str, params, questioner_step: int) -> None:
  """The second protocol: the final policy on images it never saw.

  Each host asks about its part of every batch.
  """
  host, hosts = jax.process_index(), jax.process_count()
  size = max(min(run.config.images_per_step, len(run.heldout)) // hosts, 1)
  steps = len(run.heldout) // (size * hosts)
  source = data.batches(
    run.heldout, size, run.config.seed, host=host, hosts=hosts, workers=run.workers
  )
  source = run.prepared(source, steps)
  for step in Progress(range(steps), desc=f"{method} (unseen images)", unit="step"):
    images, inputs = next(source)
    samples = run.agent.sample(params, inputs, run.key(step, stream=1))
    result = run.judge(images, run.agent.texts(samples), None, step)
    run.write(
      images,
      result,
      method=method,
      split="heldout",
      step=step,
      questioner_step=questioner_step,
    )
