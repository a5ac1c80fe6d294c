"""The model families: what their config.json may say, and what it leaves unsaid.

The defaults are transformers' class defaults (configuration_qwen2_5_vl.py and
configuration_qwen3_vl.py, 5.23).
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Family:
  """One `model_type`.

  Attributes:
    architecture: transformers' class.
    text: the keys of text_config that are read, with their defaults.
    text_traits: what `TextConfig` has beside them.
    text_fixed: keys of text_config of which one value is supported.
    rope: default theta and M-RoPE sections.
    vision: as `text`.
    vision_traits: as `text_traits`.
    vision_fixed: as `text_fixed`.
    modules: names in a file of modules that have another name here.
    nested: on the hub, config.json has a text_config, and tensors have the names
      `model.visual.…`, not `visual.…`.
  """

  architecture: str
  text: dict[str, Any]
  text_traits: dict[str, Any]
  text_fixed: dict[str, Any]
  rope: tuple[float, tuple[int, ...]]
  vision: dict[str, Any]
  vision_traits: dict[str, Any]
  vision_fixed: dict[str, Any]
  modules: dict[str, str]
  nested: bool


FAMILIES = {
  "qwen2_5_vl": Family(
    architecture="Qwen2_5_VLForConditionalGeneration",
    text={
      "vocab_size": 152064,
      "hidden_size": 8192,
      "intermediate_size": 29568,
      "num_hidden_layers": 80,
      "num_attention_heads": 64,
      "num_key_value_heads": 8,
      "rms_norm_eps": 1e-5,
      "max_position_embeddings": 32768,
      "bos_token_id": 151643,
      "eos_token_id": 151645,
      "pad_token_id": None,
    },
    text_traits={"attention_bias": True, "qk_norm": False, "mrope_interleaved": False},
    text_fixed={"hidden_act": "silu", "attention_dropout": 0.0},
    rope=(1e6, (16, 24, 24)),
    vision={
      "depth": 32,
      "hidden_size": 3584,
      "intermediate_size": 3420,
      "num_heads": 16,
      "out_hidden_size": 3584,
      "in_channels": 3,
      "patch_size": 14,
      "temporal_patch_size": 2,
      "spatial_merge_size": 2,
      "window_size": 112,
      "fullatt_block_indexes": (7, 15, 23, 31),
      "tokens_per_second": 4,
    },
    vision_traits={
      "num_position_embeddings": 0,
      "deepstack_visual_indexes": (),
      "layer_norm": False,
      "gated_mlp": True,
      "patch_bias": False,
    },
    vision_fixed={"hidden_act": "silu"},
    modules={"fc1": "mlp.0", "fc2": "mlp.2", "patch_embed": "patch_embed.proj"},
    nested=False,
  ),
  "qwen3_vl": Family(
    architecture="Qwen3VLForConditionalGeneration",
    text={
      "vocab_size": 151936,
      "hidden_size": 4096,
      "intermediate_size": 22016,
      "num_hidden_layers": 32,
      "num_attention_heads": 32,
      "num_key_value_heads": 32,
      "head_dim": 128,
      "rms_norm_eps": 1e-6,
      "max_position_embeddings": 128000,
      "bos_token_id": None,
      "eos_token_id": None,
      "pad_token_id": None,
    },
    text_traits={"attention_bias": False, "qk_norm": True, "mrope_interleaved": True},
    text_fixed={
      "model_type": "qwen3_vl_text",
      "hidden_act": "silu",
      "attention_dropout": 0.0,
      "attention_bias": False,
    },
    rope=(5e5, (24, 20, 20)),
    vision={
      "depth": 27,
      "hidden_size": 1152,
      "intermediate_size": 4304,
      "num_heads": 16,
      "out_hidden_size": 3584,
      "in_channels": 3,
      "patch_size": 16,
      "temporal_patch_size": 2,
      "spatial_merge_size": 2,
      "num_position_embeddings": 2304,
      "deepstack_visual_indexes": (8, 16, 24),
    },
    vision_traits={
      "window_size": 0,
      "fullatt_block_indexes": (),
      "tokens_per_second": 0,
      "layer_norm": True,
      "gated_mlp": False,
      "patch_bias": True,
    },
    vision_fixed={"hidden_act": "gelu_pytorch_tanh"},
    modules={
      "ln_q": "norm",
      "fc1": "linear_fc1",
      "fc2": "linear_fc2",
      "patch_embed": "patch_embed.proj",
    },
    nested=True,
  ),
}
