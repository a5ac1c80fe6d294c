"""The verifier: a judge of questions and answers whose verdicts become rewards."""

import dataclasses
from collections.abc import Sequence

from fmd_jax import prompts
from fmd_jax.inference import Generator, Request, generate_distinct, judging
from fmd_jax.types import Answer, ImageExample, Question, Verdict

Item = tuple[ImageExample, Question, Answer]


def judge(
  generator: Generator,
  items: Sequence[Item],
  *,
  retries: int = 1,
  max_tokens: int = 512,
  temperature: float = 0.0,
  seed: int = 0,
  votes: int = 1,
  agreement: float = 0.0,
) -> list[Verdict]:
  """One verdict per (image, question, answer), in order; see `judging.judge`."""
  return judging.judge(
    "verifier",
    generator,
    items,
    retries=retries,
    max_tokens=max_tokens,
    temperature=temperature,
    seed=seed,
    votes=votes,
    agreement=agreement,
  )


def without_image(
  answerer: Generator,
  generator: Generator,
  items: Sequence[Item],
  verdicts: Sequence[Verdict],
  *,
  guesses: int,
  answer_tokens: int,
  max_tokens: int,
  retries: int,
  seed: int,
) -> list[Verdict]:
  """The text-only control: a question answered without the image is not grounded.

  The answerer, shown no image, guesses the answer to each valid question `guesses`
  times; a question whose guesses are all judged correct loses `grounded`. A yes or no
  is guessed half of the time: several guesses are needed to call it ungrounded.

  Args:
    answerer: who guesses; greedily once, else sampled.
    generator: the verifier, which sees the image.
    items: image, question and answer, N of them.
    verdicts: on them; those that are not "ok" and valid stay as they are.
    guesses: a question; 0 leaves all verdicts alone.
    answer_tokens: the longest guess.
    max_tokens, retries: of the verifier, as in `judge`.
    seed: of guesses and verdicts.

  Returns:
    N verdicts, in order.
  """
  out = list(verdicts)
  asked = [i for i, verdict in enumerate(verdicts) if verdict.valid] if guesses else []
  judged = judge_guesses(
    answerer,
    generator,
    [items[i] for i in asked],
    guesses=guesses,
    answer_tokens=answer_tokens,
    max_tokens=max_tokens,
    retries=retries,
    seed=seed,
  )
  for i, own in zip(asked, judged, strict=True):
    if all(verdict.status == "ok" and verdict.correct for verdict in own):
      reason = f"grounded: answered right without the image, {guesses} of {guesses}"
      out[i] = dataclasses.replace(
        out[i], grounded=False, rationale=f"{out[i].rationale}\n{reason}"
      )
  return out


def judge_guesses(
  answerer: Generator,
  generator: Generator,
  items: Sequence[Item],
  *,
  guesses: int,
  answer_tokens: int,
  max_tokens: int,
  retries: int,
  seed: int,
) -> list[list[Verdict]]:
  """N lists of `guesses` verdicts on answers given without the image.

  Args: as in `without_image`.
  """
  requests = [
    Request(
      messages=prompts.render("blind", question=question.text),
      fields={"question": question.text},
      max_tokens=answer_tokens,
      temperature=0.0 if guesses == 1 else 1.0,
      seed=seed,
      sample=guess,
    )
    for _, question, _ in items
    for guess in range(guesses)
  ]
  replies = generate_distinct(answerer, requests)
  guessed = []
  for place, reply in enumerate(replies):
    image, question, answer = items[place // guesses]
    text = reply.text.rpartition("</think>")[2].strip()
    status = "unscored" if reply.error else "ok"
    guessed.append((image, question, Answer(text, answer.model, status, reply.error)))
  judged = judge(generator, guessed, retries=retries, max_tokens=max_tokens, seed=seed)
  return [judged[at : at + guesses] for at in range(0, len(judged), guesses or 1)]
