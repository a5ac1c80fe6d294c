"""A questioner ready to ask: its folder, its prompt, its sampler."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from fmd_jax import models, pixels, prompts, sharding
from fmd_jax.data import Workers
from fmd_jax.models.axes import Array
from fmd_jax.models.config import from_folder
from fmd_jax.models.processor import Batch, Processor
from fmd_jax.questioner.inputs import Inputs, make_inputs
from fmd_jax.questioner.sampler import Samples, make_sampler
from fmd_jax.types import ImageExample


class Agent:
  """A Qwen2.5-VL questioner from a checkpoint folder.

  Attributes:
    config: the model's.
    graphdef: its structure; `sample` takes the parameters.
    allowed_tokens: bool [V], what it may say.
    mesh: the devices.
  """

  def __init__(
    self,
    folder: str,
    *,
    questions: int,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    mesh: Mesh | None = None,
    gather: bool = False,
    adapt: Callable[[models.QwenVL], models.QwenVL] = lambda model: model,
  ):
    """Loads the folder.

    Args:
      folder: a Hugging Face checkpoint folder.
      questions: K, questions asked for in one response.
      group_size: G, responses to an image.
      max_new_tokens: longest response.
      temperature: of the sampling.
      mesh: from `sharding.make_mesh`; None: this process's first device.
      gather: give every device of `fsdp` all parameters while it samples.
      adapt: makes of the loaded model the one that is trained; see `models.add_lora`.
    """
    self.folder = folder
    self.mesh = mesh or sharding.make_mesh(1, 1, 1, jax.local_devices()[:1])
    self._gather = gather and self.mesh.size > 1
    self._adapt, self._model = adapt, None
    self.processor = Processor.from_folder(folder)
    self.config = config = from_folder(folder)
    self.graphdef = nnx.graphdef(self.model)
    self.allowed_tokens = models.sampleable_tokens(
      config, self.processor.special_ids, self.processor.vocab_size
    )
    self._messages = prompts.render("questioner", k=questions)
    self._sampler = functools.partial(
      make_sampler,
      self.graphdef,
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      allowed_tokens=self.allowed_tokens,
      eos_ids=config.eos_token_ids,
      pad_id=config.pad_token_id,
    )
    self._sample = self._sampler(group_size=group_size)

  @property
  def model(self) -> models.QwenVL:
    """The model of the folder; read again after `release`."""
    if self._model is None:
      self._model = self._load(self.folder)
    return self._model

  def _load(self, folder: str) -> models.QwenVL:
    where = None
    if self.mesh.size > 1:
      where = lambda *param: models.param_sharding(*param, self.mesh, self.config)  # noqa: E731
    return self._adapt(models.load(folder, shardings=where))

  def release(self) -> None:
    """Lets the loaded parameters go: a training has copies of its own."""
    self._model = None

  def untrained(self, dtype: Any) -> Any:
    """The folder's own parameters in a type, as `sample` takes them."""
    return _in_type(nnx.state(self.model), dtype)

  def untrained_of(self, folder: str, dtype: Any) -> Any:
    """The same of another folder, to ask with in this one's programs.

    Raises:
      ValueError: a model of another shape, or with another tokenizer.
    """
    same = from_folder(folder) == self.config
    if not same or not self.processor.reads_as(Processor.from_folder(folder)):
      raise ValueError(
        f"{folder} has another architecture or tokenizer than {self.folder}"
      )
    return _in_type(nnx.state(self._load(folder)), dtype)

  def with_group(self, size: int) -> "Agent":
    """The same questioner, giving another number of responses to each prompt."""
    other = copy.copy(self)
    other._sample = self._sampler(group_size=size)
    return other

  def prepare(self, images: Sequence[ImageExample]) -> Inputs:
    """What the model sees of B images; see `encode` and `place`."""
    return self.place(self.encode(images, Workers()))

  def encode(
    self,
    images: Sequence[ImageExample],
    workers: Workers,
    messages: Sequence[prompts.Messages] | None = None,
  ) -> Batch:
    """Prompts and patches of B images: NumPy, and no other process is asked.

    Args:
      images: one for each prompt.
      workers: who resize them.
      messages: the prompts, each with one image; None: the questioner's for all.
    """
    settings = self.processor.image_settings

    def pixels_of(image: ImageExample) -> pixels.Pixels:
      return workers.cached(
        (image.sha256, settings),
        lambda: pixels.resize(image.png, settings),
        lambda seen: seen.values.nbytes,
      )

    seen = workers.map(pixels_of, images)
    messages = messages or [self._messages] * len(images)
    return self.processor.encode(messages, [[x] for x in seen])

  def place(self, batch: Batch) -> Inputs:
    """Encoded images with positions and vision plan, on the mesh; see `make_inputs`.

    With several processes each gives its own images, as many as the others, and the
    result is of all: they call this in the same order.
    """
    parts, rest = divmod(sharding.batch_shards(self.mesh), jax.process_count())
    # A batch that does not split is whole on every device, and so is its plan.
    splits = self.mesh.size > 1 and not rest and len(batch.lengths) % parts == 0
    inputs = make_inputs(
      batch.input_ids,
      batch.lengths,
      batch.pixel_values,
      batch.image_grid_thw,
      self.config,
      parts if splits else None,
    )
    prompt, *pictures = inputs
    positions = sharding.join(prompt.positions, self.mesh, axis=1)
    prompt, *pictures = jax.tree.map(
      self.join, (prompt._replace(positions=None), *pictures)
    )
    return Inputs(prompt._replace(positions=positions), *pictures)

  def sample(self, params: Any, inputs: Inputs, key: jax.Array) -> Samples:
    """G responses to each image; `params` is a state or a tuple of states."""
    with sharding.use(self.mesh):
      return self._sample(self._gathered(params), *inputs, key)

  def features(self, params: Any, inputs: Inputs, key: jax.Array) -> Array:
    """The `image_features` of `sample`, by its own program: equal bit by bit."""
    with sharding.use(self.mesh):
      return self._sample.prefill(self._gathered(params), *inputs, key)[2]

  def _gathered(self, params: Any) -> Any:
    if not self._gather:
      return params
    where = models.shardings(params, self.mesh, self.config, gathered=True)
    return jax.device_put(params, where)

  def join(self, value: Array) -> Array:
    """An array [B, ...] about this process's images, as part of one about all."""
    return sharding.join(value, self.mesh)

  def tokens(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, G, T] and lengths [B, G] of this process's own images."""
    return sharding.own(samples.tokens), sharding.own(samples.lengths)

  def texts(self, samples: Samples) -> list[list[str]]:
    """The responses [B][G] as text, control tokens left out."""
    return [
      [self.processor.decode(row[:n]) for row, n in zip(group, ns, strict=True)]
      for group, ns in zip(*self.tokens(samples), strict=True)
    ]

  def spent(self, samples: Samples) -> dict[str, int]:
    """`budget/questioner_tokens`, those of this process's responses."""
    return {"budget/questioner_tokens": int(self.tokens(samples)[1].sum())}

  def with_params(self, params: tuple) -> nnx.Module:
    """The model with other parameters, for export."""
    return nnx.merge(self.graphdef, *params)


def _in_type(params: Any, dtype: Any) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), params)
