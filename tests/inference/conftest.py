"""Tiny random checkpoints, as transformers writes them."""

import pathlib
import string

import pytest

SPECIAL = (
  "<|endoftext|>",
  "<|im_start|>",
  "<|im_end|>",
  "<|vision_start|>",
  "<|vision_end|>",
  "<|vision_pad|>",
  "<|image_pad|>",
  "<|video_pad|>",
)
TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
  "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
  "{% for c in m['content'] %}{% if c['type'] == 'image' %}"
  "<|vision_start|><|image_pad|><|vision_end|>"
  "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
  "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


_TEXT = {
  "Qwen2_5_VL": {"rope_parameters": {"mrope_section": [4, 6, 6]}},
  "Qwen3VL": {
    "head_dim": 32,
    "rope_parameters": {"mrope_section": [6, 5, 5], "mrope_interleaved": True},
  },
}
_VISION = {
  "Qwen2_5_VL": {"window_size": 56, "fullatt_block_indexes": [1]},
  # A table that no picture has the size of; the last layer's output is kept too.
  "Qwen3VL": {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]},
}


def build_checkpoint(folder: pathlib.Path, family: str) -> None:
  """Random weights of std 0.15: with smaller ones greedy replies barely differ."""
  import tokenizers
  import torch
  import transformers
  from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil

  words = [*string.ascii_letters, *string.digits, *" .,?!'\"{}:<>_/|\n"]
  bpe = tokenizers.Tokenizer(
    tokenizers.models.BPE({w: i for i, w in enumerate(words)}, [])
  )
  bpe.decoder = tokenizers.decoders.Fuse()
  bpe.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in SPECIAL])
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    chat_template=TEMPLATE,
  )
  tid = tokenizer.convert_tokens_to_ids
  rope = {"rope_type": "default", "rope_theta": 1e6}
  config = getattr(transformers, f"{family}Config")(
    text_config={
      "vocab_size": len(tokenizer),
      "hidden_size": 64,
      "intermediate_size": 128,
      "num_hidden_layers": 2,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "max_position_embeddings": 1024,
      "eos_token_id": tid("<|im_end|>"),
      "pad_token_id": tid("<|endoftext|>"),
      **_TEXT[family],
      "rope_parameters": rope | _TEXT[family]["rope_parameters"],
    },
    vision_config={
      "depth": 2,
      "hidden_size": 32,
      "intermediate_size": 64,
      "num_heads": 2,
      "patch_size": 14,
      "spatial_merge_size": 2,
      "temporal_patch_size": 2,
      "out_hidden_size": 64,
      **_VISION[family],
    },
    image_token_id=tid("<|image_pad|>"),
    video_token_id=tid("<|video_pad|>"),
    vision_start_token_id=tid("<|vision_start|>"),
    vision_end_token_id=tid("<|vision_end|>"),
    tie_word_embeddings=False,
  )
  torch.manual_seed(0)
  model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
  for parameter in model.parameters():
    if parameter.ndim > 1:
      torch.nn.init.normal_(parameter, std=0.15)
  model.generation_config.eos_token_id = [tid("<|im_end|>"), tid("<|endoftext|>")]
  model.generation_config.pad_token_id = tid("<|endoftext|>")
  model.save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  pil.Qwen2VLImageProcessorPil(
    min_pixels=56 * 56, max_pixels=112 * 140
  ).save_pretrained(folder)


@pytest.fixture(scope="session", params=["Qwen2_5_VL", "Qwen3VL"])
def checkpoint(request, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("checkpoint")
  build_checkpoint(folder, request.param)
  return folder
