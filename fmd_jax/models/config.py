"""A checkpoint's config.json <-> frozen dataclasses; only what the model reads.

Both layouts are understood: transformers 5 nests `text_config` and has
`rope_parameters`; the hub's files are flat and have `rope_theta` and `rope_scaling`.
What is absent takes transformers' class default, because transformers leaves out what
equals it when it saves.
"""

import dataclasses
import json
import pathlib
from typing import Any

MODEL_TYPE = "qwen2_5_vl"
ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"

# transformers' class defaults (configuration_qwen2_5_vl.py, 5.23).
_TEXT_DEFAULTS = {
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
}
_VISION_DEFAULTS = {
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
}
_ID_DEFAULTS = {
  "image_token_id": 151655,
  "video_token_id": 151656,
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
}
_ROPE_THETA = 1e6
_VISION_ROPE_THETA = 1e4
_MROPE_SECTION = (16, 24, 24)


class ConfigError(ValueError):
  """A config.json that this code cannot honour; the message is one line."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The language model; names and meanings are transformers'."""

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  rms_norm_eps: float
  rope_theta: float
  mrope_section: tuple[int, ...]
  max_position_embeddings: int

  @property
  def head_dim(self) -> int:
    return self.hidden_size // self.num_attention_heads


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """The vision tower; names and meanings are transformers'."""

  depth: int
  hidden_size: int
  intermediate_size: int
  num_heads: int
  out_hidden_size: int
  in_channels: int
  patch_size: int
  temporal_patch_size: int
  spatial_merge_size: int
  window_size: int
  fullatt_block_indexes: tuple[int, ...]
  tokens_per_second: int
  rope_theta: float

  @property
  def patch_width(self) -> int:
    """Numbers in one patch: channels x frames x height x width."""
    return self.in_channels * self.temporal_patch_size * self.patch_size**2

  @property
  def merge_unit(self) -> int:
    """Patches in one visual token."""
    return self.spatial_merge_size**2


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A Qwen2.5-VL checkpoint, hashable, so that it may be static under jit.

  Attributes:
    eos_token_ids: every id that ends a response (generation_config.json names more
      than config.json).
    pad_token_id: fills rows; may be one of `eos_token_ids`.
  """

  text: TextConfig
  vision: VisionConfig
  tie_word_embeddings: bool
  image_token_id: int
  video_token_id: int
  vision_start_token_id: int
  vision_end_token_id: int
  bos_token_id: int | None
  eos_token_ids: tuple[int, ...]
  pad_token_id: int


def _pick(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
  return {key: given[key] if key in given else defaults[key] for key in defaults}


def _single(value: Any, name: str) -> int:
  if isinstance(value, list | tuple):
    if len(set(value)) != 1:
      raise ConfigError(f"{name} = {value} is not supported: patches are square")
    return int(value[0])
  return int(value)


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
  if value is None:
    return ()
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def _require(given: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
  for key, value in wanted.items():
    if key in given and given[key] != value:
      raise ConfigError(
        f"{where}{key} = {given[key]!r} is not supported ({value!r} is)"
      )


def _text_rope(text: dict[str, Any]) -> tuple[float, tuple[int, ...]]:
  """Theta and sections from either spelling."""
  rope = dict(text.get("rope_scaling") or text.get("rope_parameters") or {})
  kinds = {rope.get("rope_type"), rope.get("type")} - {None}
  if not kinds <= {"default", "mrope"}:
    raise ConfigError(
      f"rope type {sorted(kinds)} is not supported (default and mrope are)"
    )
  if rope.get("mrope_interleaved"):
    raise ConfigError("interleaved M-RoPE is not supported (it is Qwen3-VL's)")
  theta = rope.get("rope_theta") or text.get("rope_theta") or _ROPE_THETA
  return float(theta), tuple(rope.get("mrope_section") or _MROPE_SECTION)


def _text_config(text: dict[str, Any]) -> TextConfig:
  _require(text, {"hidden_act": "silu", "attention_dropout": 0.0}, "text_config.")
  windows = text.get("use_sliding_window") and text.get("sliding_window") is not None
  if windows or "sliding_attention" in (text.get("layer_types") or ()):
    raise ConfigError("text_config: sliding-window attention is not supported")
  values = _pick(text, _TEXT_DEFAULTS)
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    del values[name]
  if values["num_key_value_heads"] is None:
    values["num_key_value_heads"] = values["num_attention_heads"]
  theta, section = _text_rope(text)
  config = TextConfig(rope_theta=theta, mrope_section=section, **values)
  heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
  if config.hidden_size % heads or heads % kv_heads:
    raise ConfigError(
      f"text_config: {heads} heads divide neither width {config.hidden_size} evenly"
      f" nor into {kv_heads} key/value heads"
    )
  if 2 * sum(section) != config.head_dim:
    raise ConfigError(
      f"mrope_section {list(section)} must add up to half of head_dim {config.head_dim}"
    )
  return config


def _vision_config(vision: dict[str, Any], text_width: int) -> VisionConfig:
  _require(vision, {"hidden_act": "silu"}, "vision_config.")
  vision = dict(vision)
  if "in_chans" in vision:  # the hub's spelling
    vision.setdefault("in_channels", vision["in_chans"])
  values = _pick(vision, _VISION_DEFAULTS)
  for name in ("patch_size", "temporal_patch_size"):
    values[name] = _single(values[name], f"vision_config.{name}")
  values["fullatt_block_indexes"] = tuple(values["fullatt_block_indexes"])
  rope = vision.get("rope_parameters") or {}
  theta = rope.get("rope_theta") or _VISION_ROPE_THETA
  config = VisionConfig(rope_theta=float(theta), **values)
  if config.out_hidden_size != text_width:
    raise ConfigError(
      f"vision_config.out_hidden_size {config.out_hidden_size} is not the language"
      f" model's width {text_width}"
    )
  if config.hidden_size % (4 * config.num_heads):
    raise ConfigError("vision_config: head width must be a multiple of 4 for 2-D rope")
  return config


def from_dict(
  config: dict[str, Any], generation: dict[str, Any] | None = None
) -> ModelConfig:
  """Reads the content of a config.json.

  Args:
    config: of config.json, in either layout.
    generation: of generation_config.json, which may name more end-of-sequence ids.

  Raises:
    ConfigError: for another model type, or a setting that is not implemented.
  """
  if config.get("model_type") != MODEL_TYPE:
    raise ConfigError(
      f"model_type {config.get('model_type')!r} is not supported ({MODEL_TYPE!r} is)"
    )
  if "quantization_config" in config:
    raise ConfigError("quantised checkpoints are not supported: convert to safetensors")
  # The hub's flat layout has the language model's keys at the root.
  text = config.get("text_config") or config
  tied = config.get("tie_word_embeddings") or text.get("tie_word_embeddings") or False
  text_config = _text_config(text)
  vision = _vision_config(config.get("vision_config") or {}, text_config.hidden_size)
  special = {}
  for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
    found = [c[name] for c in (text, config) if c.get(name) is not None]
    special[name] = found[0] if found else _TEXT_DEFAULTS[name]
  generation = generation or {}
  eos = _ids(generation.get("eos_token_id")) or _ids(special["eos_token_id"])
  pad = special["pad_token_id"]
  if pad is None:
    pad = generation.get("pad_token_id")
  if pad is None:  # as transformers' generate does
    pad = eos[0]
  return ModelConfig(
    text=text_config,
    vision=vision,
    tie_word_embeddings=bool(tied),
    bos_token_id=special["bos_token_id"],
    eos_token_ids=eos,
    pad_token_id=int(pad),
    **_pick(config, _ID_DEFAULTS),
  )


def to_dict(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
  """The content of a config.json as transformers 5 writes it."""
  text = dataclasses.asdict(config.text)
  theta, section = text.pop("rope_theta"), text.pop("mrope_section")
  text |= {
    "model_type": f"{MODEL_TYPE}_text",
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": theta,
      "mrope_section": list(section),
    },
    "bos_token_id": config.bos_token_id,
    "eos_token_id": config.eos_token_ids[0],
    "pad_token_id": config.pad_token_id,
    "dtype": dtype,
  }
  vision = dataclasses.asdict(config.vision)
  vision |= {
    "model_type": f"{MODEL_TYPE}_vision",
    "hidden_act": "silu",
    "fullatt_block_indexes": list(config.vision.fullatt_block_indexes),
    "rope_parameters": {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")},
    "dtype": dtype,
  }
  return {
    "architectures": [ARCHITECTURE],
    "model_type": MODEL_TYPE,
    "dtype": dtype,
    "tie_word_embeddings": config.tie_word_embeddings,
    **{name: getattr(config, name) for name in _ID_DEFAULTS},
    "bos_token_id": config.bos_token_id,
    "eos_token_id": config.eos_token_ids[0],
    "pad_token_id": config.pad_token_id,
    "text_config": text,
    "vision_config": vision,
  }


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise ConfigError(f"{path} is not JSON: {error}") from None
  if not isinstance(content, dict):
    raise ConfigError(f"{path} is not a JSON object")
  return content


def from_folder(folder: str | pathlib.Path) -> ModelConfig:
  """Reads config.json, and the end-of-sequence ids of generation_config.json.

  Raises:
    ConfigError: not a checkpoint folder, or one that is not supported.
  """
  folder = pathlib.Path(folder)
  path = folder / "config.json"
  if not path.is_file():
    raise ConfigError(f"{folder} is not a checkpoint folder: it has no config.json")
  generation = folder / "generation_config.json"
  try:
    return from_dict(
      _read_json(path), _read_json(generation) if generation.is_file() else None
    )
  except ConfigError as error:
    message = str(error)
    if not message.startswith(str(folder)):
      message = f"{path}: {message}"
    raise ConfigError(message) from None


def to_folder(config: ModelConfig, folder: pathlib.Path, dtype: str) -> None:
  """Writes config.json and generation_config.json."""
  generation = {
    "bos_token_id": config.bos_token_id,
    "eos_token_id": list(config.eos_token_ids),
    "pad_token_id": config.pad_token_id,
    "do_sample": False,
  }
  files = {"config": to_dict(config, dtype), "generation_config": generation}
  for name, content in files.items():
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
