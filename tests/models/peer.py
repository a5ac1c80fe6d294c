"""The same tiny model in transformers, and rows of tokens for both."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

VOCABULARY = 96
IMAGE, VIDEO, START, END = 90, 91, 92, 93
PAD, EOS = 1, 2
WORDS = range(3, 80)
_TEXT = {
  "Qwen2_5_VL": {},
  "Qwen3VL": {
    "head_dim": 24,  # four heads are wider than the model
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": 1e4,
      "mrope_section": [6, 3, 3],
      "mrope_interleaved": True,
    },
  },
}
_VISION = {
  "Qwen2_5_VL": {"fullatt_block_indexes": [1, 3], "tokens_per_second": 2},
  "Qwen3VL": {
    "patch_size": 4,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 2],
  },
}


def peer(
  text: dict | None = None,
  vision: dict | None = None,
  tied: bool = True,
  family: str = "Qwen2_5_VL",
):
  """A random {family}ForConditionalGeneration, fp32.

  Weights have std 0.15 and biases and norms are perturbed: at the customary 0.02 the
  layers are nearly the identity, and almost any wrong layer passes a test.
  """
  import torch
  import transformers

  # Its threads spin while they wait, which on a busy machine is most of the time.
  torch.set_num_threads(1)
  text = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "bos_token_id": PAD,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": 1e4,
      "mrope_section": [2, 3, 3],
    },
    **_TEXT[family],
    **(text or {}),
  }
  vision = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": text["hidden_size"],
    **_VISION[family],
    **(vision or {}),
  }
  config = getattr(transformers, f"{family}Config")(
    text_config=text,
    vision_config=vision,
    tie_word_embeddings=tied,
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_start_token_id=START,
    vision_end_token_id=END,
  )
  model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      noise = torch.randn(parameter.shape, generator=generator) * 0.15
      parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
  # Parity is about whole rows: nothing may end them early.
  model.generation_config.eos_token_id = None
  return model


class Rows(NamedTuple):
  """What the Hugging Face processor would give; right-padded."""

  input_ids: np.ndarray
  attention_mask: np.ndarray
  pixel_values: np.ndarray
  image_grid_thw: np.ndarray

  @property
  def lengths(self) -> np.ndarray:
    return self.attention_mask.sum(1)


def rows(
  *contents: list[int | tuple[int, int]], seed: int = 0, patch_size: int = 14
) -> Rows:
  """Rows of random words and images.

  Args:
    *contents: one list a row: n for n words, (height, width) in patches for an image.
    seed: of words and pixels.
    patch_size: the model's.
  """
  rng = np.random.default_rng(seed)
  grids, made = [], []
  for content in contents:
    row = []
    for part in content:
      if isinstance(part, int):
        row += rng.choice(WORDS, part).tolist()
      else:
        grids.append((1, *part))
        row += [START] + [IMAGE] * (part[0] * part[1] // 4) + [END]
    made.append(row)
  longest = max(map(len, made))
  mask = np.array([[1] * len(r) + [0] * (longest - len(r)) for r in made])
  ids = np.array([r + [PAD] * (longest - len(r)) for r in made])
  grid = np.array(grids, np.int64)
  size = (grid.prod(-1).sum(), 3 * 2 * patch_size**2)
  pixels = rng.normal(size=size).astype(np.float32)
  return Rows(ids, mask, pixels, grid)


def inputs(given: Rows) -> dict[str, Any]:
  """The rows as transformers wants them."""
  import torch

  named = {
    **given._asdict(),
    # Without it transformers silently falls back to 1-D positions.
    "mm_token_type_ids": (given.input_ids == IMAGE).astype(np.int32),
  }
  return {name: torch.from_numpy(value) for name, value in named.items()}


def logits(model: Any, given: Rows) -> np.ndarray:
  """transformers' logits."""
  import torch

  with torch.no_grad():
    return model(**inputs(given)).logits.numpy()


def difference(ours: Any, theirs: np.ndarray, mask: np.ndarray) -> float:
  """max |difference| / max |reference| over real tokens."""
  real = mask.astype(bool)
  ours, theirs = np.asarray(ours)[real], theirs[real]
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def saved(model: Any, folder: pathlib.Path) -> pathlib.Path:
  model.save_pretrained(folder)
  return folder
