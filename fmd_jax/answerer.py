"""The answerer: the target model, whose failures the project looks for."""

from collections.abc import Sequence

from fmd_jax import prompts
from fmd_jax.inference import (
  Generator,
  Reply,
  Request,
  generate_distinct,
  identity,
)
from fmd_jax.types import Answer, ImageExample, Question


def ask(
  generator: Generator,
  pairs: Sequence[tuple[ImageExample, Question]],
  *,
  max_tokens: int = 32,
  temperature: float = 0.0,
  seed: int | Sequence[int] = 0,
  task: str = "",
) -> list[Answer]:
  """Asks the target model.

  Args:
    generator: the target model.
    pairs: image and question, N of them. An unparsed question is not asked.
    max_tokens: the longest answer, reasoning included.
    temperature: 0 is greedy.
    seed: of the sampling; or one each (`inference.own_seed`).
    task: "answer" where a judge is asked for its own answer: the testbed's replies to
      fields, and has to be told.

  Returns:
    N answers, in order: status "ok", "unparsed" (the question was) or "unscored"
    (the model failed; `error` says how).
  """
  model = identity(generator)
  asked = [i for i, (_, question) in enumerate(pairs) if question.status == "ok"]
  requests = []
  seeds = [seed] * len(pairs) if isinstance(seed, int) else seed
  for i in asked:
    example, question = pairs[i]
    requests.append(
      Request(
        messages=prompts.render("answerer", question=question.text),
        images=(example.png,),
        fields={"question": question.text} | ({"task": task} if task else {}),
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seeds[i],
      )
    )
  answers = [Answer("", model, status="unparsed") for _ in pairs]
  replies = generate_distinct(generator, requests)
  for i, reply in zip(asked, replies, strict=True):
    answers[i] = _answer(reply, model)
  return answers


def _answer(reply: Reply, model: str) -> Answer:
  if reply.error:
    return Answer("", model, status="unscored", error=reply.error)
  _, thought, after = reply.text.rpartition("</think>")
  if not thought and "<think>" in reply.text:
    return Answer("", model, status="unscored", error="the reasoning does not end")
  return Answer(after.strip(), model)
