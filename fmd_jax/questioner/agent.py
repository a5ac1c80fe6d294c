"""A questioner ready to ask: its folder, its prompt, its sampler."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from fmd_jax import models, prompts
from fmd_jax.models.processor import Processor
from fmd_jax.questioner.sampler import Inputs, Samples, make_inputs, make_sampler
from fmd_jax.types import ImageExample


class Agent:
  """A Qwen2.5-VL questioner from a checkpoint folder.

  Attributes:
    model: as loaded.
    graphdef: its structure; `sample` takes the parameters.
    allowed_tokens: bool [V], what it may say.
  """

  def __init__(
    self,
    folder: str,
    *,
    questions: int,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
  ):
    """Loads the folder.

    Args:
      folder: a Hugging Face checkpoint folder.
      questions: K, questions asked for in one response.
      group_size: G, responses to an image.
      max_new_tokens: longest response.
      temperature: of the sampling.
    """
    self.folder = folder
    self.processor = Processor.from_folder(folder)
    self.model = models.load(folder)
    self.graphdef = nnx.graphdef(self.model)
    config = self.model.config
    self.allowed_tokens = models.sampleable_tokens(
      config, self.processor.special_ids, self.processor.vocab_size
    )
    self._messages = prompts.render("questioner", k=questions)
    self._sample = make_sampler(
      self.graphdef,
      group_size=group_size,
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      allowed_tokens=self.allowed_tokens,
      eos_ids=config.eos_token_ids,
      pad_id=config.pad_token_id,
    )

  def prepare(self, images: Sequence[ImageExample]) -> Inputs:
    """Prompts, patches and the vision plan of B images; see `make_inputs`."""
    batch = self.processor.encode(
      [self._messages] * len(images), [[image.png] for image in images]
    )
    return make_inputs(
      batch.input_ids,
      batch.lengths,
      batch.pixel_values,
      batch.image_grid_thw,
      self.model.config,
    )

  def sample(self, params: Any, inputs: Inputs, key: jax.Array) -> Samples:
    """G responses to each image; `params` is a state or a tuple of states."""
    return self._sample(params, *inputs, key)

  def texts(self, samples: Samples) -> list[list[str]]:
    """The responses [B][G] as text, control tokens left out."""
    tokens, lengths = np.asarray(samples.tokens), np.asarray(samples.lengths)
    return [
      [self.processor.decode(row[:n]) for row, n in zip(group, ns, strict=True)]
      for group, ns in zip(tokens, lengths, strict=True)
    ]

  def with_params(self, params: tuple) -> nnx.Module:
    """The model with other parameters, for export."""
    return nnx.merge(self.graphdef, *params)
