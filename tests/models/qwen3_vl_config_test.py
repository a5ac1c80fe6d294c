"""Qwen3-VL's config.json: the hub's, transformers', and what is refused."""

import json

import pytest

from fmd_jax.models import config as configs

# What the hub has for Qwen3-VL-4B-Instruct.
HUB = {
  "architectures": ["Qwen3VLForConditionalGeneration"],
  "image_token_id": 151655,
  "model_type": "qwen3_vl",
  "text_config": {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "dtype": "bfloat16",
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "max_position_embeddings": 262144,
    "model_type": "qwen3_vl_text",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
      "mrope_interleaved": True,
      "mrope_section": [24, 20, 20],
      "rope_type": "default",
    },
    "rope_theta": 5000000,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 151936,
  },
  "tie_word_embeddings": True,
  "transformers_version": "4.57.0.dev0",
  "video_token_id": 151656,
  "vision_config": {
    "deepstack_visual_indexes": [5, 11, 17],
    "depth": 24,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1024,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "model_type": "qwen3_vl",
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "out_hidden_size": 2560,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
  },
  "vision_end_token_id": 151653,
  "vision_start_token_id": 151652,
}


def test_hub_config():
  # Heads of 2560 / 32 = 80, or the theta of the class: both load without a word.
  config = configs.from_dict(HUB)
  assert config.text == configs.TextConfig(
    vocab_size=151936,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    rms_norm_eps=1e-6,
    rope_theta=5e6,
    mrope_section=(24, 20, 20),
    max_position_embeddings=262144,
    head_dim=128,
    attention_bias=False,
    qk_norm=True,
    mrope_interleaved=True,
  )
  assert config.vision.deepstack_visual_indexes == (5, 11, 17)
  assert config.feature_width == 4 * 2560 and config.vision.patch_width == 1536
  assert config.tie_word_embeddings and config.eos_token_ids == (151645,)
  assert configs.from_dict(configs.to_dict(config)) == config


def test_hub_config_as_transformers_reads_it():
  import transformers

  theirs = transformers.Qwen3VLConfig(**HUB)
  wanted = configs.from_dict(HUB)
  assert configs.from_dict(json.loads(theirs.to_json_string(use_diff=True))) == wanted
  # The other way round: what we leave out must be the class's default.
  ours = transformers.Qwen3VLConfig(**configs.to_dict(wanted)).to_dict()
  for name in ("text_config", "vision_config"):
    given, read = ours[name], theirs.to_dict()[name]
    chosen = {"dtype", "pad_token_id", "architectures"}
    assert {k for k in given if given[k] != read.get(k)} <= chosen


def test_class_defaults_are_transformers():
  import transformers

  ends = {"eos_token_id": 7}
  text, vision = {"text_config": ends}, {"vision_config": {"out_hidden_size": 4096}}
  theirs = transformers.Qwen3VLConfig(**text, **vision)
  plain = configs.from_dict({"model_type": "qwen3_vl", **vision, **ends})
  assert configs.from_dict(theirs.to_dict()) == plain


REFUSED = {
  "text_config.model_type = 'qwen3_vl_moe_text' is not supported": {
    "text_config": {"model_type": "qwen3_vl_moe_text"}
  },
  "text_config.attention_bias = True is not supported": {
    "text_config": {"attention_bias": True}
  },
  "mrope_interleaved = False is not supported": {
    "text_config": {"rope_scaling": {"mrope_interleaved": False}}
  },
  "rope type .'yarn'. is not supported": {
    "text_config": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}
  },
  "must add up to half of head_dim 64": {"text_config": {"head_dim": 64}},
  "32 heads do not divide into 5": {"text_config": {"num_key_value_heads": 5}},
  "vision_config.hidden_act = 'silu' is not supported": {
    "vision_config": {"hidden_act": "silu"}
  },
  "num_position_embeddings = 2305 is not supported": {
    "vision_config": {"num_position_embeddings": 2305}
  },
  r"deepstack_visual_indexes = \[11, 5\] is not supported": {
    "vision_config": {"deepstack_visual_indexes": [11, 5]}
  },
  r"deepstack_visual_indexes = \[24\] is not supported": {
    "vision_config": {"deepstack_visual_indexes": [24]}
  },
  "at most 2 of them": {"text_config": {"num_hidden_layers": 2}},
  "there is no eos_token_id": {"text_config": {"eos_token_id": None}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
  # Loaded all the same, each gives another model than transformers.
  parts = REFUSED[message]
  config = {**HUB, **{name: {**HUB[name], **part} for name, part in parts.items()}}
  with pytest.raises(configs.ConfigError, match=message) as error:
    configs.from_dict(config)
  assert "\n" not in str(error.value)
