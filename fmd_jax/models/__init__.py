"""Qwen2.5-VL and Qwen3-VL in Flax NNX: load, save, encode, run, decode, score."""

from fmd_jax.models.axes import constrain_params, param_sharding, shardings
from fmd_jax.models.config import ConfigError, ModelConfig, TextConfig, VisionConfig
from fmd_jax.models.lora import add_lora, merge_lora
from fmd_jax.models.positions import mrope_positions
from fmd_jax.models.qwen_vl import QwenVL, init, sampleable_tokens
from fmd_jax.models.vision_plan import (
  VisionPlan,
  pad_patches,
  vision_plan,
  vision_plans,
)
from fmd_jax.models.weights import CheckpointError, load, save

__all__ = [
  "CheckpointError",
  "ConfigError",
  "ModelConfig",
  "QwenVL",
  "TextConfig",
  "VisionConfig",
  "VisionPlan",
  "add_lora",
  "constrain_params",
  "init",
  "load",
  "merge_lora",
  "mrope_positions",
  "pad_patches",
  "param_sharding",
  "sampleable_tokens",
  "save",
  "shardings",
  "vision_plan",
  "vision_plans",
]
