"""The evaluator: an independent judge, asked after the run about its records."""

from collections.abc import Sequence

from fmd_jax.inference import Generator, judging
from fmd_jax.types import Answer, ImageExample, Question, Verdict


def judge(
  generator: Generator,
  items: Sequence[tuple[ImageExample, Question, Answer]],
  *,
  retries: int = 1,
  max_tokens: int = 512,
  temperature: float = 0.0,
  seed: int = 0,
) -> list[Verdict]:
  """One verdict per (image, question, answer), in order; see `judging.judge`."""
  return judging.judge(
    "evaluator",
    generator,
    items,
    retries=retries,
    max_tokens=max_tokens,
    temperature=temperature,
    seed=seed,
  )
