"""ConMe: ask, read the target's answers, ask harder (Huang et al. 2024).

describe (questioner, target) -> compare, ask -> answers -> ask harder -> answers

Half of an image's responses are first turns; each of the other half follows one of
them, with the target's answers in front of it. Both halves count, so that as many
questions are asked as by the other methods: of G responses, the first G/2 are the first
turn. Nothing is trained.

A large questioner follows the instructions of `prompts.conme`. The testbed's tiny one
knows its own prompt only: with `config.conme.describe` off, the first turn is asked as
Zero Shot asks, and the second by a copy that was taught it (`config.conme.questioner`).
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmd_jax import inference, prompts, rollout
from fmd_jax.methods.run import Run, ask_heldout, ask_training
from fmd_jax.questioner.parsing import clean, parse_response
from fmd_jax.types import ImageExample

NAME = "conme"


def run(run: Run) -> None:
  """Asks in two turns, `config.steps` steps, then about unseen images."""
  dtype, spec = jnp.dtype(run.config.precision.compute), run.config.conme.questioner
  first = second = run.agent.untrained(dtype)
  if spec:
    try:
      second = run.agent.untrained_of(inference.checkpoint_folder(spec), dtype)
    except ValueError as bad:
      raise ValueError(
        f"config.conme.questioner is {spec!r}: {bad}; it asks the second turn in the "
        "questioner's place: '' lets the questioner ask both"
      ) from bad
  params = (first, second)
  steps = range(run.config.steps)
  ask_training(run, NAME, params, steps, questioner_step=0, ask=two_turns)
  ask_heldout(run, NAME, params, questioner_step=0, ask=two_turns)


def two_turns(
  run: Run,
  params: Any,
  images: Sequence[ImageExample],
  inputs: Any,
  key: jax.Array,
  step: int,
) -> tuple[rollout.Rollout, dict[str, float]]:
  """Both turns of one batch, `params` of each; see `methods.run.one_turn`."""
  k, half = run.config.questions_per_image, run.config.group_size // 2
  keys, spent, begun = jax.random.split(key, 3), [], time.perf_counter()

  def speak(agent, inputs, key, turn=0) -> list[list[str]]:
    samples = agent.sample(params[turn], inputs, key)
    spent.append(run.agent.spent(samples))
    return agent.texts(samples)

  def inputs_of(images, messages):
    return run.agent.place(run.agent.encode(images, run.workers, messages))

  # ---- describe, compare, ask ------------------------------------------------------
  first = [prompts.render("questioner", k=k)] * len(images)
  calls = 0
  if run.config.conme.describe:
    looking = [prompts.render("conme_describe")] * len(images)
    own = speak(run.agent.with_group(1), inputs_of(images, looking), keys[0])
    theirs = _described(run, images, step)
    calls = len(images)
    first = [
      prompts.render("conme_compare", k=k, own=clean(_last(a[0])), theirs=b)
      for a, b in zip(own, theirs, strict=True)
    ]
    inputs = inputs_of(images, first)
  opening = speak(run.agent.with_group(half), inputs, keys[1])
  seconds = time.perf_counter() - begun
  opened = run.judge(images, opening, None, step)

  # ---- read the answers, ask harder ------------------------------------------------
  begun = time.perf_counter()
  answers = iter([answer.text for _, answer, _ in opened.slots])
  shown, dialogues = [], []
  for image, messages, responses in zip(images, first, opening, strict=True):
    for response in responses:
      questions = parse_response(response, k)
      said = [next(answers) for _ in questions]
      shown.append(image)
      dialogues.append(
        prompts.render(
          "conme_harder",
          first=messages,
          k=k,
          response=prompts.response([q for q in questions if q]),
          questions=questions,
          answers=said,
        )
      )
  following = speak(run.agent.with_group(1), inputs_of(shown, dialogues), keys[2], 1)
  harder = [
    [response for (response,) in following[i : i + half]]
    for i in range(0, len(following), half)
  ]
  seconds += time.perf_counter() - begun
  result = _joined(opened, run.judge(images, harder, None, step))
  result.calls["answerer_calls"] += calls
  numbers = {"time/sample": seconds, **_sums(spent)}
  return result, numbers | _fdr_of_turns(result)


def _described(run: Run, images: Sequence[ImageExample], step: int) -> list[str]:
  """What the target sees; "" where it says nothing."""
  replies = run.roles.answerer.generate(
    [
      inference.Request(
        messages=prompts.render("conme_describe"),
        images=(image.png,),
        max_tokens=run.config.sampling.max_new_tokens,
        seed=run.config.seed + step,
      )
      for image in images
    ]
  )
  return ["" if reply.error else clean(_last(reply.text)) for reply in replies]


def _last(text: str) -> str:
  """What follows the reasoning."""
  return text.rpartition("</think>")[2]


def _joined(first: rollout.Rollout, second: rollout.Rollout) -> rollout.Rollout:
  """Both turns as one rollout of G responses an image, the first turn first."""
  images, half = first.mask.shape
  size = len(first.slots) // images
  slots = []
  for at in range(0, len(first.slots), size):
    slots += first.slots[at : at + size]
    for question, answer, verdict in second.slots[at : at + size]:
      place = question.response_index + half
      question = dataclasses.replace(question, response_index=place, turn=1)
      slots.append((question, answer, verdict))
  return rollout.Rollout(
    slots=slots,
    scores=None,
    rewards=np.concatenate([first.rewards, second.rewards], 1),
    mask=np.concatenate([first.mask, second.mask], 1),
    seconds=_sums([first.seconds, second.seconds]),
    step_rows=first.step_rows + second.step_rows,
    step_scores=None,
    calls=_sums([first.calls, second.calls]),
  )


def _sums(parts: Sequence[dict[str, float]]) -> dict[str, float]:
  return {name: sum(part[name] for part in parts) for name in parts[0]}


def _fdr_of_turns(result: rollout.Rollout) -> dict[str, float]:
  """`conme/fdr_first` and `conme/fdr_second`: whether asking harder helps."""
  out = {}
  for turn, name in enumerate(("first", "second")):
    verdicts = [v for question, _, v in result.slots if question.turn == turn]
    valid = [v for v in verdicts if v.valid]
    wrong = sum(not v.correct for v in valid)
    out[f"conme/fdr_{name}"] = wrong / len(valid) if valid else float("nan")
    scored = sum(v.status != "unscored" for v in verdicts)
    out[f"conme/qvr_{name}"] = len(valid) / scored if scored else float("nan")
  return out
