"""Tiny tokenizer folders and random models with Qwen's control tokens, for tests."""

import json
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import nnx
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers import models as token_models

from fmd_jax import models
from fmd_jax.models import config as model_config

# Qwen2.5's order: <|endoftext|> is the padding and an end of sequence too.
SPECIAL = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<|object_ref_start|>",
  "<|object_ref_end|>",
  "<|box_start|>",
  "<|box_end|>",
  "<|quad_start|>",
  "<|quad_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|vision_pad|>",
  "<|image_pad|>",
  "<|video_pad|>",
)
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<|fim_prefix|>")

# Qwen2.5-VL's template, without videos.
CHAT_TEMPLATE = """{% set image_count = namespace(value=0) %}\
{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}\
{% set image_count.value = image_count.value + 1 %}\
{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}\
<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in content %}{{ content['text'] }}{% endif %}\
{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_CORPUS = (
  "Ask questions about this image. What colour is the red circle?",
  "Write <response_1>How many squares are there?</response_1> and nothing else.",
  "You look for questions about an image that a model answers wrongly.",
)


def tokenizer() -> tokenizers.Tokenizer:
  """A byte-level BPE of 320 ids, then Qwen's control tokens from id 320 on."""
  made = tokenizers.Tokenizer(token_models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320,
    show_progress=False,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
  )
  made.train_from_iterator(_CORPUS, trainer)
  made.add_special_tokens(
    [tokenizers.AddedToken(t, special=True, normalized=False) for t in SPECIAL]
  )
  made.add_tokens(
    [tokenizers.AddedToken(t, special=False, normalized=False) for t in NOT_SPECIAL]
  )
  return made


def write_processor(folder: pathlib.Path, **image_settings) -> pathlib.Path:
  """Writes tokenizer, template and image settings as a checkpoint folder has them."""
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer().save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(
    json.dumps(
      {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
      }
    )
  )
  (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
  (folder / "preprocessor_config.json").write_text(
    json.dumps({"image_processor_type": "Qwen2VLImageProcessor", **image_settings})
  )
  return folder


WORDS = 320  # control tokens have the ids from here on
VOCABULARY = 344  # a few more rows than the tokenizer has tokens


def special_ids() -> tuple[int, ...]:
  """The ids of the control tokens, as the processor of `write_processor` finds them."""
  return (*range(WORDS, WORDS + len(SPECIAL)), WORDS + len(SPECIAL) + 2)


def processor_vocabulary() -> int:
  """The `vocab_size` of the same processor."""
  return WORDS + len(SPECIAL) + len(NOT_SPECIAL)


# Given to `config` and `model`, these make it a Qwen3-VL: heads wider than the model,
# a position table of 6 x 6 and one deepstack layer of the two.
QWEN3 = {
  "model_type": "qwen3_vl",
  "text_config": {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "rope_parameters": {"rope_theta": 1e4, "mrope_section": [6, 3, 3]},
  },
  "vision_config": {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0],
  },
}
# For `pytest.mark.parametrize` and `pytest.fixture(params=…)`.
FAMILIES = [{}, QWEN3]
FAMILY_NAMES = ["Qwen2.5-VL", "Qwen3-VL"]


def config(**changes) -> model_config.ModelConfig:
  """A Qwen2.5-VL of 2 layers and width 32 whose pad id ends sequences too."""
  ids = {name: WORDS + i for i, name in enumerate(SPECIAL)}
  content = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": False,
    "image_token_id": ids["<|image_pad|>"],
    "video_token_id": ids["<|video_pad|>"],
    "vision_start_token_id": ids["<|vision_start|>"],
    "vision_end_token_id": ids["<|vision_end|>"],
    "text_config": {
      "vocab_size": VOCABULARY,
      "hidden_size": 32,
      "intermediate_size": 48,
      "num_hidden_layers": 2,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "rms_norm_eps": 1e-6,
      "rope_parameters": {"rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    },
    "vision_config": {
      "depth": 2,
      "hidden_size": 32,
      "intermediate_size": 48,
      "num_heads": 2,
      "out_hidden_size": 32,
      "window_size": 56,
      "fullatt_block_indexes": [1],
    },
    **changes,
  }
  ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
  generation = {"eos_token_id": ends, "pad_token_id": ids["<|endoftext|>"]}
  return model_config.from_dict(content, generation)


def model(seed: int, **changes) -> nnx.Module:
  """A random model, biases and norms random too; made without compiling anything."""
  graphdef, params = nnx.split(
    nnx.eval_shape(lambda: models.init(config(**changes), seed))
  )
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    noise = rng.normal(size=leaf.shape)
    if path[-1] == "scale":
      noise = 1 + 0.1 * noise
    elif path[-1] == "kernel":
      noise *= leaf.shape[-2] ** -0.5
    else:
      noise *= 0.2
    return leaf.replace(jnp.array(noise, jnp.float32))

  return nnx.merge(graphdef, nnx.map_state(fill, params))


class Prompts(NamedTuple):
  """Right-padded prompts, one image each, as NumPy."""

  input_ids: np.ndarray
  lengths: np.ndarray
  pixel_values: np.ndarray
  image_grid_thw: np.ndarray


def prompts(
  config: model_config.ModelConfig,
  grids: list[tuple[int, int]],
  lengths: list[int],
  seed: int = 0,
) -> Prompts:
  """Random words around one random image a row; `grids` in patches (height, width)."""
  rng = np.random.default_rng(seed)
  width = max(lengths) + 2
  ids = np.full((len(grids), width), config.pad_token_id, np.int32)
  for row, ((height, columns), length) in enumerate(zip(grids, lengths, strict=True)):
    image = [config.image_token_id] * (height * columns // 4)
    text = rng.integers(0, WORDS, length - len(image) - 2).tolist()
    ids[row, :length] = [
      text[0],
      config.vision_start_token_id,
      *image,
      config.vision_end_token_id,
      *text[1:],
    ]
  grid = np.array([(1, *grid) for grid in grids], np.int64)
  pixels = rng.normal(size=(grid.prod(-1).sum(), config.vision.patch_width))
  return Prompts(ids, np.array(lengths, np.int32), pixels.astype(np.float32), grid)


def plain_logits(
  model: nnx.Module,
  prompts: Prompts,
  completions: np.ndarray,
  lengths: np.ndarray,
) -> np.ndarray:
  """The logits that predict each completion token, by whole rows without a cache.

  Args:
    model: any.
    prompts: B rows.
    completions: [B, G, T].
    lengths: [B, G].

  Returns:
    [B, G, T, V] float64, meaningless from `lengths` on.
  """
  batch, group, steps = completions.shape
  width = prompts.input_ids.shape[1] + steps
  ids = np.zeros((batch * group, width), np.int32)
  seen = np.zeros((batch * group, width), bool)
  first = np.cumsum([0, *prompts.image_grid_thw.prod(-1)])
  pixels, logits = [], np.zeros((batch, group, steps, model.config.text.vocab_size))
  for b in range(batch):
    for g in range(group):
      own = prompts.input_ids[b, : prompts.lengths[b]]
      own = np.concatenate([own, completions[b, g, : lengths[b, g]]])
      ids[b * group + g, : len(own)] = own
      seen[b * group + g, : len(own)] = True
      pixels.append(prompts.pixel_values[first[b] : first[b + 1]])
  grids = np.repeat(prompts.image_grid_thw, group, 0)
  out = np.asarray(model(ids, np.concatenate(pixels), grids, seen))
  for b, row in enumerate(out.reshape(batch, group, width, -1)):
    start = prompts.lengths[b] - 1
    logits[b] = row[:, start : start + steps]
  return logits


def push(model: nnx.Module, tokens: list[int]) -> nnx.Module:
  """The same model, its head pushed to two tokens: one of them is always likeliest.

  Their columns are a large vector and its negative, so that whatever the hidden state
  is, one of the two logits is huge.
  """
  graphdef, params = nnx.split(model)
  flat = dict(nnx.to_flat_state(params))
  head = flat[("lm_head", "kernel")]
  one, other = tokens
  large = 1000.0 * jnp.ones(head.shape[0]) * (-1.0) ** jnp.arange(head.shape[0])
  flat[("lm_head", "kernel")] = head.replace(
    head[...].at[:, one].set(large).at[:, other].set(-large)
  )
  return nnx.merge(graphdef, nnx.from_flat_state(flat))
