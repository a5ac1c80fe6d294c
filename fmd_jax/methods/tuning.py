"""Fine-tuning the questioner on given questions: what SFT and Expert Iteration share.

corpus -> images with responses that ask its questions -> cross-entropy -> update

The loss goes through GRPO's update (`rl.SUPERVISED`): image and prompt run once, logits
of the whole vocabulary never exist, and mesh, adapters, precision and microbatches are
those of the config.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax

from fmd_jax import data, hosts, prompts, rl, sharding
from fmd_jax.hosts import Stopped
from fmd_jax.methods import training
from fmd_jax.methods.run import Run
from fmd_jax.progress import Progress
from fmd_jax.questioner.agent import Agent
from fmd_jax.questioner.inputs import Inputs
from fmd_jax.questioner.parsing import clean
from fmd_jax.types import ImageExample
from fmd_jax.update import TrainBatch, TrainState, trim

_METRICS = ("loss", "kl", "entropy", "grad_norm")


class Lesson(NamedTuple):
  """Some images with responses to learn.

  Attributes:
    images: this host's b images.
    tokens: int32 [b, G, T], right-padded.
    lengths: int32 [b, G]; 0 where an image has fewer than G responses.
  """

  images: list[ImageExample]
  tokens: np.ndarray
  lengths: np.ndarray


def updates_of(corpus: data.Corpus, epochs: float, images_per_step: int) -> int:
  """Updates in which each image of the corpus is seen `epochs` times; at least one."""
  return max(round(epochs * len(corpus) / images_per_step), 1)


def compose(
  questions: Sequence[str], k: int, most: int, rng: np.random.Generator
) -> list[tuple[str, ...]]:
  """Puts the questions about one image into at most `most` responses of K.

  A question is in one of them only. The last one may hold fewer than K.
  """
  order = rng.permutation(len(questions))[: most * k]
  drawn = [questions[i] for i in order]
  return [tuple(drawn[at : at + k]) for at in range(0, len(drawn), k)]


def spell(agent: Agent, questions: Sequence[str], k: int, longest: int) -> list[int]:
  """The tokens of a response.

  Without the end token where there are fewer than K questions, or more tokens than are
  allowed: that a response may end early must not be learned.
  """
  text = prompts.response([clean(question) for question in questions])
  ids = agent.processor.tokens(text)
  if len(questions) == k:
    ids.append(agent.config.eos_token_ids[0])
  return ids[:longest]


def lessons(
  run: Run, corpus: data.Corpus, updates: range, stream: int
) -> Iterator[Lesson]:
  """What this host learns from in each update: a function of its number only.

  An epoch is a permutation of the images; of an image with many questions it takes as
  many as G responses hold, others in the next epoch.

  Args:
    run: for its sizes and seed.
    corpus: items of an image and questions.
    updates: numbers of the updates.
    stream: tells corpora of one run apart, so that each has an order of its own.
  """
  config, size = run.config, run.config.images_per_step
  k, most, longest = (
    config.questions_per_image,
    config.group_size,
    config.sampling.max_new_tokens,
  )
  share = size // hosts.count()

  def one(place: int) -> tuple[ImageExample, list[list[int]]]:
    epoch, index = divmod(place, len(corpus))
    order = np.random.default_rng((config.seed, stream, epoch))
    item = int(order.permutation(len(corpus))[index])
    image, questions = corpus[item]
    rng = np.random.default_rng((config.seed, stream, epoch, item))
    responses = compose(questions, k, most, rng)
    return image, [spell(run.agent, r, k, longest) for r in responses]

  for update in updates:
    first = update * size + hosts.index() * share
    taken = run.workers.map(one, range(first, first + share))
    shape = (share, most)
    tokens = np.full((*shape, longest), run.agent.config.pad_token_id, np.int32)
    lengths = np.zeros(shape, np.int32)
    for b, (_, responses) in enumerate(taken):
      for g, ids in enumerate(responses):
        tokens[b, g, : len(ids)], lengths[b, g] = ids, len(ids)
    yield Lesson([image for image, _ in taken], tokens, lengths)


def make_update(
  config: ml_collections.ConfigDict,
  agent: Agent,
  optimizer: optax.GradientTransformation,
) -> Callable:
  """The jitted update on responses that are to be learned."""
  return training.make_update(
    config,
    agent.graphdef,
    optimizer,
    agent.allowed_tokens,
    agent.config,
    loss=rl.SUPERVISED,
    beta=0.0,
  )


def fine_tune(
  run: Run,
  name: str,
  corpus: data.Corpus,
  state: TrainState,
  update: Callable,
  updates: range,
  *,
  stream: int,
  measure: Callable[[int, dict[str, float]], None],
  keep: Callable[[int, TrainState], None],
) -> TrainState:
  """Makes the updates of one corpus.

  Args:
    run: the run.
    name: for the progress bar.
    corpus: see `data.open_corpus`.
    state: before the first of them; it is donated.
    update: from `make_update`.
    updates: their numbers; a run that was cut off starts at a later one.
    stream: see `lessons`.
    measure: takes the number of each update and what was measured.
    keep: makes a checkpoint of the state before the update of a number: now and then,
      after the last one, and when the run is stopped.

  Returns:
    The state after the last one.

  Raises:
    Stopped: the run was asked to stop.
  """
  agent = run.agent
  encoded = (
    (lesson, agent.encode(lesson.images, run.workers))
    for lesson in lessons(run, corpus, updates, stream)
  )
  bar = Progress(updates, name, updates.stop, initial=updates.start, unit="update")
  with run.stop.deferred():
    for number, (lesson, seen) in zip(bar, run.workers.ahead(encoded), strict=False):
      try:
        run.stop.check()
      except Stopped:
        keep(number, state)
        raise
      begun = time.perf_counter()
      batch = batch_of(agent, agent.place(seen), lesson)
      with sharding.use(agent.mesh):
        state, metrics = update(state, trim(batch))
      metrics = jax.device_get(metrics)
      numbers = {f"sft/{key}": float(metrics[f"grpo/{key}"]) for key in _METRICS}
      numbers["time/update"] = time.perf_counter() - begun
      bar.set_postfix(loss=f"{numbers['sft/loss']:.3f}", refresh=False)
      measure(number, numbers)
      done = number + 1
      if done % run.config.checkpoint.every == 0 or done == updates.stop:
        keep(done, state)
  return state


def batch_of(agent: Agent, inputs: Inputs, lesson: Lesson) -> TrainBatch:
  """A lesson as the update takes it."""
  used = int(sharding.agree(np.array((lesson.lengths > 0).sum(1).max())))
  # A power of two, so that few programs are compiled: most images have few questions.
  group = min(1 << (used - 1).bit_length(), lesson.lengths.shape[1])
  tokens, lengths = lesson.tokens[:, :group], lesson.lengths[:, :group]
  return TrainBatch(
    prompt=inputs.prompt,
    completions=agent.join(tokens),
    lengths=agent.join(lengths),
    # Nobody sampled these texts, and the loss has no ratio.
    old_logprobs=agent.join(np.zeros(tokens.shape, np.float32)),
    advantages=agent.join(np.ones(lengths.shape, np.float32)),
    response_mask=agent.join(lengths > 0),
    pixel_values=inputs.pixel_values,
    plan=inputs.plan,
  )
