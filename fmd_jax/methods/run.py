"""What every method of one run shares: its options, models, images and workdir."""

import dataclasses
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from fmd_jax import data, hosts, models, monitor, rollout
from fmd_jax.progress import Progress
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.inputs import Inputs
from fmd_jax.questioner.remote import RemoteAgent
from fmd_jax.records.files import is_remote
from fmd_jax.records.measurements import Measurements
from fmd_jax.records.reader import whole_steps
from fmd_jax.records.writer import write_image, write_shard
from fmd_jax.stopping import Stop
from fmd_jax.types import ImageExample, Verdict
from fmd_jax.update import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a config.

  Attributes:
    config: resolved; `config.json` holds the same.
    workdir: where everything goes.
    run_id: of the manifest.
    agent: the untrained questioner; a remote one can ask, and can't be trained.
    roles: the models it plays against.
    train, heldout: images asked about while training, and afterwards.
    workers: who read and prepare images ahead.
    stop: whether the run is to stop.
    models: role -> identity; a checkpoint of other models is refused.
    may_differ: keys of the config that a resumed run may change.
    evaluator: the independent judge, see `monitor.Watch`; only on the first process.
  """

  config: ml_collections.ConfigDict
  workdir: epath.Path
  run_id: str
  agent: Agent | RemoteAgent
  roles: rollout.Roles
  train: data.Source
  heldout: data.Source
  workers: data.Workers = dataclasses.field(default_factory=data.Workers)
  stop: Stop = dataclasses.field(default_factory=Stop)
  models: Mapping[str, str] = dataclasses.field(default_factory=dict)
  may_differ: Sequence[str] = ()
  evaluator: Callable[[Sequence[monitor.Key]], Sequence[Verdict]] | None = None

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
    host, count = hosts.index(), hosts.count()
    size = self.config.images_per_step // count
    return data.batches(
      self.train, size, self.config.seed, start, host, count, self.workers
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

  @property
  def identity(self) -> dict:
    """What a checkpoint belongs to."""
    return {**self.config.to_dict(), "models": dict(self.models)}

  @functools.cached_property
  def _judges(self) -> rollout.Judges:
    k = self.config.questions_per_image
    ordered = not self.config.rollout.late
    return rollout.Judges(self.roles, k=k, limits=self.limits, ordered=ordered)

  def hand(self, images, texts, step: int, rewarded: bool) -> Future[rollout.Judged]:
    """Hands the responses of one step to the answerer and the verifier."""
    terms = self.reward.terms if rewarded else ()
    seed = self.config.seed + step
    return self._judges.hand(images, texts, terms=terms, seed=seed)

  def score(self, judged: Future[rollout.Judged], banks) -> rollout.Rollout:
    """Waits for their verdicts and, with banks, scores them.

    Raises:
      Stopped: the run is to stop; on all processes at once, as any other error.
    """
    return rollout.score(judged, banks, self.reward, self.stop.wait)

  def judge(self, images, texts, banks, step: int) -> rollout.Rollout:
    """Answers, judges and, with banks, scores the responses of one step."""
    return self.score(self.hand(images, texts, step, banks is not None), banks)

  def measurements(self, method: str, start: int) -> "Measurements | _Silent":
    """Where the numbers of a method go, from a step on: one process writes them."""
    if hosts.index():
      return _Silent()
    return Measurements(self.workdir, method, start)

  def export(self, state: TrainState, name: str) -> None:
    """Writes the trained questioner as a checkpoint folder of the workdir."""
    model = self.agent.with_params((state.params, state.frozen))
    folder = self.workdir / name
    with tempfile.TemporaryDirectory() as local:
      remote = is_remote(folder)
      models.save(
        models.merge_lora(model),
        local if remote else os.fspath(folder),
        source=self.agent.folder,
      )
      if remote and hosts.index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for path in epath.Path(local).iterdir():
          path.copy(folder / path.name, overwrite=True)

  def unrecorded(self, method: str, split: str, steps: int) -> list[int]:
    """The steps of so many that are not recorded yet, the same on all processes."""

    def missing() -> list[int]:
      done = whole_steps(self.workdir, method, split)
      return [step for step in range(steps) if step not in done]

    return hosts.from_first(missing)

  def write(
    self,
    images: Sequence[ImageExample],
    result: rollout.Rollout,
    *,
    method: str,
    split: str,
    step: int,
    questioner_step: int,
    asked_at: Sequence[tuple[int, int]] | None = None,
    advantages: np.ndarray | None = None,
  ) -> None:
    """Writes this host's shard of one step and the images it refers to.

    `asked_at` is of each image, see `rollout.records`; `questioner_step` of all.
    """
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
      asked_by=self._asked_by(method),
      asked_at=asked_at,
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
      host=hosts.index(),
      hosts=hosts.count(),
    )

  def _asked_by(self, method: str) -> tuple[str, ...]:
    """The questioner's prompt in each turn of a method."""
    if method != "conme":
      return ("questioner",)
    first = "conme_compare" if self.config.conme.describe else "questioner"
    return first, "conme_harder"


class _Silent:
  """Measurements of a process that writes none."""

  def write(self, step: int, values: Mapping[str, object]) -> None:
    pass


# (run, params, images, inputs, key, step) -> what was asked and judged, and numbers
Ask = Callable[..., tuple[rollout.Rollout, dict[str, float]]]


def one_turn(
  run: Run,
  params: Any,
  images: Sequence[ImageExample],
  inputs: Inputs,
  key: jax.Array,
  step: int,
) -> tuple[rollout.Rollout, dict[str, float]]:
  """Questions to each image in one go, answered and judged, and what they cost."""
  begun = time.perf_counter()
  samples = run.agent.sample(params, inputs, key)
  texts = run.agent.texts(samples)
  numbers = {"time/sample": time.perf_counter() - begun, **run.agent.spent(samples)}
  return run.judge(images, texts, None, step), numbers


def ask_training(
  run: Run,
  method: str,
  params: Any,
  steps: range,
  questioner_step: int,
  ask: Ask = one_turn,
) -> None:
  """The first protocol for a policy that stays as it is during these steps.

  Nothing is rewarded: the rows have no reward, and the shards themselves say where a
  run that was cut off goes on.

  Args:
    run: the run.
    method: whose records these are.
    params: of the questioner.
    steps: which steps; those that have shards are done.
    questioner_step: updates that made the policy.
    ask: how it asks.
  """
  left = [i for i in run.unrecorded(method, "train", steps.stop) if i in steps]
  start = left[0] if left else steps.stop
  measured = run.measurements(method, start)
  source = run.prepared(run.batches(start), steps.stop - start)
  bar = Progress(range(start, steps.stop), method, run.config.steps, initial=start)
  with run.stop.deferred():
    for step in bar:
      run.stop.check()
      images, inputs = next(source)
      result, more = ask(run, params, images, inputs, run.key(step), step)
      numbers = rollout.measurements(result) | more
      measured.write(step, numbers)
      # The shard last: it is what marks the step as done.
      run.write(
        images,
        result,
        method=method,
        split="train",
        step=step,
        questioner_step=questioner_step,
      )
      bar.set_postfix(fdr=f"{numbers['rollout/fdr']:.2f}", refresh=False)


def ask_heldout(
  run: Run, method: str, params: Any, questioner_step: int, ask: Ask = one_turn
) -> None:
  """The second protocol: the final policy on images it never saw.

  Each host asks about its part of every batch. The shards themselves say where a run
  that was cut off goes on.
  """
  host, count = hosts.index(), hosts.count()
  size = max(min(run.config.images_per_step, len(run.heldout)) // count, 1)
  steps = len(run.heldout) // (size * count)
  left = run.unrecorded(method, "heldout", steps)
  start = left[0] if left else steps
  source = data.batches(
    run.heldout, size, run.config.seed, start, host, count, run.workers
  )
  source = run.prepared(source, steps - start)
  bar = Progress(range(start, steps), f"{method} (unseen images)", steps, initial=start)
  with run.stop.deferred():
    for step in bar:
      images, inputs = next(source)
      result, _ = ask(run, params, images, inputs, run.key(step, stream=1), step)
      run.write(
        images,
        result,
        method=method,
        split="heldout",
        step=step,
        questioner_step=questioner_step,
      )
