"""Everything of a tiny checkpoint folder but its weights: tokenizer, template, config.

The folder is an ordinary Hugging Face one; transformers and vLLM load it too.
"""

import dataclasses
import json
import pathlib
import random

import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  trainers,
)

from fmd_jax.models.families import FAMILIES
from fmd_jax.prompts import render
from fmd_jax.world.questions import sample_question
from fmd_jax.world.scenes import (
  DIRECTIONS,
  LETTERS,
  QUADRANTS,
  VALUES,
  sample_scene,
)

# Qwen's order; in the real vocabulary these follow the 151 643 ranks.
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
MAX_QUESTIONS = 4
# One token each, so that the tiny questioner doesn't spell its tags.
TAGS = tuple(
  tag
  for i in range(1, MAX_QUESTIONS + 1)
  for tag in (f"<response_{i}>", f"</response_{i}>")
)
_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT_TEMPLATE = (
  "{% for message in messages %}"
  "{% if loop.first and message['role'] != 'system' %}"
  "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
  "<|im_start|>{{ message['role'] }}\n"
  "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
  "{% else %}{% for content in message['content'] %}"
  "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
  "<|vision_start|><|image_pad|><|vision_end|>"
  "{% elif content['type'] == 'video' or 'video' in content %}"
  "<|vision_start|><|video_pad|><|vision_end|>"
  "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
  "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS_SCENES = 4000


def _corpus():
  """Text in which every word of the world and of the two prompts occurs."""
  rng = random.Random(0)
  for _ in range(_CORPUS_SCENES):
    scene = sample_scene(rng)
    for _ in range(8):
      yield sample_question(rng, scene, lead_share=0.4).text
  words = [*(w for v in VALUES.values() for w in v), *QUADRANTS, *DIRECTIONS]
  words += [*LETTERS, "yes", "no", "system", "user", "assistant", "?"]
  prompts = [m["content"] for m in render("answerer", question="?")]
  for k in (1, 2, 4):
    prompts += [m["content"] for m in render("questioner", k=k)]
  for content in prompts:
    parts = [{"text": content}] if isinstance(content, str) else content
    words += [part["text"] for part in parts if "text" in part]
  for word in words:
    for _ in range(50):
      yield word
      yield f" {word}"


def train_tokenizer() -> tokenizers.Tokenizer:
  """A byte-level BPE in which every word of the world is one token."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_SPLIT), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=2000,  # never reached: the words run out first
    min_frequency=2,
    special_tokens=[],
    show_progress=False,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
  )
  tokenizer.train_from_iterator(_corpus(), trainer)
  special = [AddedToken(t, special=True, normalized=False) for t in SPECIAL]
  tokenizer.add_special_tokens(special)
  tags = [AddedToken(t, special=False, normalized=False) for t in TAGS]
  tokenizer.add_tokens(tags)
  return tokenizer


# Larger pictures are shrunk to the 16 visual tokens these models were made on; one of
# 112 x 112 is 8 x 8 patches of 14, or is resized to 8 x 8 patches of 16.
_IMAGES = {
  "qwen2_5_vl": {
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 56 * 56,
    "max_pixels": 112 * 112,
    "patch_size": 14,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
  },
  "qwen3_vl": {
    "processor_class": "Qwen3VLProcessor",
    "min_pixels": 64 * 64,
    "max_pixels": 128 * 128,
    "patch_size": 16,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
  },
}


def write_tokenizer(
  tokenizer: tokenizers.Tokenizer, folder: pathlib.Path, family: str
) -> None:
  """Writes tokenizer, chat template, processor and generation settings.

  Args:
    tokenizer: see `train_tokenizer`.
    folder: made if missing.
    family: the `model_type`, which decides how pixels become patches.
  """
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / "tokenizer.json"))
  (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE)
  files = {
    "tokenizer_config.json": {
      "tokenizer_class": "PreTrainedTokenizerFast",
      "pad_token": "<|endoftext|>",
      "eos_token": "<|im_end|>",
      "bos_token": None,
      "unk_token": None,
      "model_max_length": 4096,
      "clean_up_tokenization_spaces": False,
    },
    "preprocessor_config.json": {
      "image_processor_type": "Qwen2VLImageProcessor",
      "temporal_patch_size": 2,
      "merge_size": 2,
      **_IMAGES[family],
    },
    "generation_config.json": {
      "eos_token_id": [
        tokenizer.token_to_id("<|im_end|>"),
        tokenizer.token_to_id("<|endoftext|>"),
      ],
      "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
      "do_sample": False,
    },
  }
  for name, content in files.items():
    (folder / name).write_text(json.dumps(content, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class Size:
  """Of a tiny model, fp32.

  Attributes:
    family: its `model_type`.
    heads: of the language model, of 32 channels each; the width is 32 times as much.
    kv_heads: of the language model.
    layers: of the language model.
    vision_heads: of the vision tower, likewise.
    depth: of the vision tower.
  """

  family: str
  heads: int
  kv_heads: int
  layers: int
  vision_heads: int
  depth: int


# 1.7 million parameters.
BASE = Size("qwen2_5_vl", heads=4, kv_heads=2, layers=4, vision_heads=4, depth=3)
SMALL = Size("qwen2_5_vl", heads=3, kv_heads=3, layers=3, vision_heads=3, depth=2)
# 1.8 million: its three mergers leave room for a narrower tower only.
OTHER = Size("qwen3_vl", heads=4, kv_heads=2, layers=4, vision_heads=3, depth=4)


def _qwen2_5_vl(size: Size) -> tuple[dict, dict]:
  """What only a Qwen2.5-VL has: keys of text_config and of vision_config."""
  text = {
    # Qwen's own base. With a small one (10) every channel turns within a question, and
    # words no longer find the visual token that they mean (see LOG.md).
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": 1e6,
      "mrope_section": [4, 6, 6],
    },
    "use_sliding_window": False,
  }
  vision = {
    "intermediate_size": 2 * 32 * size.vision_heads,
    "hidden_act": "silu",
    "window_size": 112,
    "fullatt_block_indexes": list(range(1, size.depth)),
    "tokens_per_second": 2,
  }
  return text, vision


def _qwen3_vl(size: Size) -> tuple[dict, dict]:
  """What only a Qwen3-VL has, likewise."""
  text = {
    "head_dim": 32,
    "attention_bias": False,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": 5e6,  # Qwen's own again
      "mrope_section": [6, 5, 5],
      "mrope_interleaved": True,
    },
  }
  vision = {
    "intermediate_size": 3 * 32 * size.vision_heads,  # not gated: as many parameters
    "hidden_act": "gelu_pytorch_tanh",
    "num_position_embeddings": 64,  # one a patch
    "deepstack_visual_indexes": [1, 2],
  }
  return text, vision


_OWN = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


def model_config(tokenizer: tokenizers.Tokenizer, size: Size) -> dict:
  """config.json of a tiny model."""
  family, width = size.family, 32 * size.heads
  ids = {
    name: tokenizer.token_to_id(token)
    for name, token in (
      ("bos_token_id", "<|endoftext|>"),
      ("pad_token_id", "<|endoftext|>"),
      ("eos_token_id", "<|im_end|>"),
      ("image_token_id", "<|image_pad|>"),
      ("video_token_id", "<|video_pad|>"),
      ("vision_start_token_id", "<|vision_start|>"),
      ("vision_end_token_id", "<|vision_end|>"),
    )
  }
  vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
  own_text, own_vision = _OWN[family](size)
  text = {
    "model_type": f"{family}_text",
    "vocab_size": -(-vocabulary // 64) * 64,
    "hidden_size": width,
    "intermediate_size": 2 * width,
    "num_hidden_layers": size.layers,
    "num_attention_heads": size.heads,
    "num_key_value_heads": size.kv_heads,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "attention_dropout": 0.0,
    "bos_token_id": ids["bos_token_id"],
    "eos_token_id": ids["eos_token_id"],
    "pad_token_id": ids["pad_token_id"],
    "dtype": "float32",
    **own_text,
  }
  vision = {
    "model_type": f"{family}_vision",
    "depth": size.depth,
    "hidden_size": 32 * size.vision_heads,
    "num_heads": size.vision_heads,
    "in_channels": 3,
    "patch_size": _IMAGES[family]["patch_size"],
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": width,
    **own_vision,
  }
  return {
    "architectures": [FAMILIES[family].architecture],
    "model_type": family,
    "dtype": "float32",
    "tie_word_embeddings": True,
    "text_config": text,
    "vision_config": vision,
    **ids,
  }
