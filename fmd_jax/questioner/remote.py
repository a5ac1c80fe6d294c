"""A questioner that is asked, not trained: any model spec, for Zero Shot and ConMe."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fmd_jax import prompts
from fmd_jax.data import Workers
from fmd_jax.inference import Generator, InferenceError, Reply, Request
from fmd_jax.types import ImageExample

Prompts = list[tuple[ImageExample, prompts.Messages]]


class RemoteAgent:
  """Stands where an `Agent` does; has no parameters and counts no tokens.

  A reply that failed is an empty response: its slots are unparsed.
  """

  def __init__(
    self,
    generator: Generator,
    *,
    questions: int,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
  ):
    """Takes the model; the numbers are those of an `Agent`."""
    self._generator, self._group = generator, group_size
    self._max_tokens, self._temperature = max_new_tokens, temperature
    self._messages = prompts.render("questioner", k=questions)

  def untrained(self, dtype: Any) -> None:
    """It has no parameters here."""

  def with_group(self, size: int) -> "RemoteAgent":
    """The same questioner, giving another number of responses to each prompt."""
    other = object.__new__(RemoteAgent)
    other.__dict__ = self.__dict__ | {"_group": size}
    return other

  def encode(
    self,
    images: Sequence[ImageExample],
    workers: Workers,
    messages: Sequence[prompts.Messages] | None = None,
  ) -> Prompts:
    """Images with their prompts; nothing is encoded on this side."""
    messages = messages or [self._messages] * len(images)
    return list(zip(images, messages, strict=True))

  def place(self, batch: Prompts) -> Prompts:
    """The same: there are no devices."""
    return batch

  def sample(self, params: None, inputs: Prompts, key: jax.Array) -> list[list[str]]:
    """G responses to each prompt.

    Raises:
      InferenceError: no reply came at all.
    """
    shape = (len(inputs), self._group)
    seeds = np.asarray(jax.random.randint(key, shape, 0, 2**31 - 1))
    replies = self._generator.generate(
      [
        Request(
          messages=messages,
          images=(image.png,),
          max_tokens=self._max_tokens,
          temperature=self._temperature,
          seed=int(seed),
        )
        for (image, messages), own in zip(inputs, seeds, strict=True)
        for seed in own
      ]
    )
    if replies and all(reply.error for reply in replies):
      raise InferenceError(f"the questioner gave no response: {replies[0].error}")
    texts = [_text(reply) for reply in replies]
    return [texts[i : i + self._group] for i in range(0, len(texts), self._group)]

  def texts(self, samples: list[list[str]]) -> list[list[str]]:
    """The responses [B][G]."""
    return samples

  def spent(self, samples: list[list[str]]) -> dict[str, float]:
    """Nothing: the tokens of a model behind an address are not known here."""
    return {}


def _text(reply: Reply) -> str:
  return "" if reply.error else reply.text
