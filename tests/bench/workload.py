"""What the benches of update and sampler run: a folder, pictures, responses.

Axes: B images · G responses per image · P prompt tokens · T completion tokens.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from fmd_jax import models, optim, prompts, update
from fmd_jax.models import scoring
from fmd_jax.models.processor import Processor
from fmd_jax.questioner.inputs import Inputs, make_inputs
from tests.bench import folders

TOKENS = 80  # of each response, all forced
QUESTIONS = 2  # K
LOSS = {"beta": 0.04, "clip": 0.2}
ADAMW = {"learning_rate": 1e-6, "b1": 0.9, "b2": 0.95, "eps": 1e-8}
MAX_GRAD_NORM = 1.0
CACHE = pathlib.Path("~/.cache/fmd_jax").expanduser()


class Case(NamedTuple):
  """A model and one batch for it.

  Attributes:
    model: as loaded.
    inputs: the prompts and pictures of B images.
    batch: G responses to each, encoded in the update.
    grids: [B, 3] of the pictures.
  """

  model: nnx.Module
  inputs: Inputs
  batch: update.TrainBatch
  grids: np.ndarray


def folder(size: str) -> pathlib.Path:
  """The bench folder of a size, made when missing."""
  return folders.make(size, CACHE / f"bench-{size}")


def picture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
  """uint8 [height, width, 3]: coarse patches of colour under fine noise."""
  width, height = size
  coarse = rng.integers(0, 200, (-(-height // 32), -(-width // 32), 3))
  smooth = np.kron(coarse, np.ones((32, 32, 1)))[:height, :width]
  return (smooth + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


def make(
  path: pathlib.Path,
  *,
  images: int,
  group: int,
  tokens: int = TOKENS,
  size: tuple[int, int] = folders.IMAGE,
  prompt: int | None = None,
  score: bool = True,
) -> Case:
  """A batch as the questioner's agent prepares it, with random forced responses.

  Args:
    path: the model's folder.
    images: B.
    group: G.
    tokens: T.
    size: of the pictures, width and height.
    prompt: P, by random words at the end of the prompt; None: the questioner's own
      prompt, padded as the agent pads it.
  """
  rng = np.random.default_rng(0)
  model, processor = models.load(path), Processor.from_folder(path)
  encoded = processor.encode(
    [prompts.render("questioner", k=QUESTIONS)] * images,
    [[picture(rng, size)] for _ in range(images)],
  )
  ids, lengths = encoded.input_ids, encoded.lengths
  if prompt is not None:
    own = int(lengths[0])
    if own > prompt:
      raise ValueError(f"{own} tokens of the prompt itself, more than {prompt}")
    words = rng.integers(0, folders.WORDS, (images, prompt - own))
    ids = np.concatenate([ids[:, :own], words], 1).astype(np.int32)
    lengths = np.full(images, prompt, np.int32)
  grids = encoded.image_grid_thw
  inputs = make_inputs(ids, lengths, encoded.pixel_values, grids, model.config)
  rows = (images, group)
  batch = update.TrainBatch(
    **inputs._asdict(),
    completions=rng.integers(0, folders.WORDS, (*rows, tokens)).astype(np.int32),
    lengths=np.full(rows, tokens, np.int32),
    old_logprobs=np.zeros((*rows, tokens), np.float32),
    advantages=rng.standard_normal(rows, np.float32),
    response_mask=np.ones(rows, bool),
  )
  if score:
    noise = 0.2 * rng.standard_normal(batch.completions.shape, np.float32)
    batch = batch._replace(old_logprobs=np.asarray(_logprobs(model, batch)) + noise)
  return Case(model, inputs, batch, grids)


def every_token(model: nnx.Module) -> np.ndarray:
  """bool [V]: PyTorch's trainers mask no token."""
  return np.ones(model.config.text.vocab_size, bool)


def _logprobs(model: nnx.Module, batch: update.TrainBatch):
  graphdef, params = nnx.split(model)

  @jax.jit
  def run(params, batch):
    model = nnx.merge(graphdef, params)
    prompt = batch.prompt
    return scoring.completion_logprobs(
      model,
      model.encode_images(batch.pixel_values, batch.plan),
      prompt.input_ids,
      prompt.lengths,
      prompt.positions,
      prompt.next_position,
      batch.completions,
      batch.lengths,
      every_token(model),
    )[0]

  return run(params, batch)


def adamw() -> Any:
  """The optimiser that both sides use."""
  return optim.make_optimizer(**ADAMW, weight_decay=0.0, max_grad_norm=MAX_GRAD_NORM)


def make_update(model: nnx.Module, optimizer: Any):
  """The jitted update, as `methods/grpo.py` makes it."""
  return update.make_update_fn(
    nnx.graphdef(model),
    optimizer,
    **LOSS,
    microbatches=1,
    temperature=1.0,
    allowed_tokens=every_token(model),
    image_token_id=model.config.image_token_id,
  )


def start(model: nnx.Module, optimizer: Any, freeze: tuple[str, ...] = ("visual",)):
  """A state whose reference policy is not its policy: the KL is not 0."""
  state = update.init_state(model, optimizer, freeze)
  rng = np.random.default_rng(1)

  def moved(leaf):
    noise = rng.standard_normal(leaf.shape, np.float32)
    return leaf + 0.02 * folders.STD * noise

  return state._replace(ref_params=jax.tree.map(moved, state.ref_params))
