"""A checkpoint's config.json <-> frozen dataclasses; only what the model reads.

Both layouts are understood: transformers 5 nests `text_config` and has
`rope_parameters`; the hub's files are flat and have `rope_theta` and `rope_scaling`.
What is absent takes transformers' class default, because transformers leaves out what
equals it when it saves.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

from fmd_jax.models.families import FAMILIES, Family

_ID_DEFAULTS = {
  "image_token_id": 151655,
  "video_token_id": 151656,
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
}
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_VISION_ROPE_THETA = 1e4


class ConfigError(ValueError):
  """A config.json that this code cannot honour; the message is one line."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The language model; names and meanings are transformers'.

  Attributes:
    head_dim: width of a head; all heads together may be wider than `hidden_size`.
    attention_bias: queries, keys and values have one (the output never).
    qk_norm: every head's query and key is normed before it is rotated.
    mrope_interleaved: frequencies go to the axes in turn, not section by section.
  """

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
  head_dim: int
  attention_bias: bool
  qk_norm: bool
  mrope_interleaved: bool


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """The vision tower; names and meanings are transformers'.

  Attributes:
    window_size: in pixels; 0: every layer attends within whole frames.
    num_position_embeddings: of the learned table, a square; 0: there is none.
    deepstack_visual_indexes: layers whose output, merged, the language model's first
      layers are given too.
    layer_norm: LayerNorm with a bias, not RMSNorm; a deepstack merger's over a whole
      group of patches.
    gated_mlp: gated by a SiLU, not two layers with the tanh GELU between.
    patch_bias: the patch embedding has one.
  """

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
  num_position_embeddings: int
  deepstack_visual_indexes: tuple[int, ...]
  layer_norm: bool
  gated_mlp: bool
  patch_bias: bool

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
  """A checkpoint, hashable, so that it may be static under jit.

  Attributes:
    model_type: a key of `FAMILIES`.
    eos_token_ids: every id that ends a response (generation_config.json names more
      than config.json).
    pad_token_id: fills rows; may be one of `eos_token_ids`.
  """

  model_type: str
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

  @property
  def feature_width(self) -> int:
    """Numbers in a visual token: its embedding, then what deepstack adds."""
    return self.text.hidden_size * (1 + len(self.vision.deepstack_visual_indexes))


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


def _text_rope(text: dict[str, Any], family: Family) -> tuple[float, tuple[int, ...]]:
  """Theta and sections from either spelling."""
  rope = dict(text.get("rope_scaling") or text.get("rope_parameters") or {})
  kinds = {rope.get("rope_type"), rope.get("type")} - {None}
  if not kinds <= {"default", "mrope"}:
    raise ConfigError(
      f"rope type {sorted(kinds)} is not supported (default and mrope are)"
    )
  interleaved = {"mrope_interleaved": family.text_traits["mrope_interleaved"]}
  _require(rope, interleaved, "text_config.rope_parameters.")
  default_theta, default_section = family.rope
  theta = rope.get("rope_theta") or text.get("rope_theta") or default_theta
  return float(theta), tuple(rope.get("mrope_section") or default_section)


def _text_config(text: dict[str, Any], family: Family) -> TextConfig:
  _require(text, family.text_fixed, "text_config.")
  windows = text.get("use_sliding_window") and text.get("sliding_window") is not None
  if windows or "sliding_attention" in (text.get("layer_types") or ()):
    raise ConfigError("text_config: sliding-window attention is not supported")
  values = _pick(text, family.text)
  for name in _SPECIAL:
    del values[name]
  width, heads = values["hidden_size"], values["num_attention_heads"]
  if values["num_key_value_heads"] is None:
    values["num_key_value_heads"] = heads
  kv_heads = values["num_key_value_heads"]
  if "head_dim" not in values and width % heads:
    raise ConfigError(f"text_config: {heads} heads do not divide the width {width}")
  if heads % kv_heads:
    raise ConfigError(
      f"text_config: {heads} heads do not divide into {kv_heads} key/value heads"
    )
  head_dim = values.setdefault("head_dim", width // heads)
  theta, section = _text_rope(text, family)
  if 2 * sum(section) != head_dim or len(section) != 3:
    raise ConfigError(
      f"mrope_section {list(section)}, three numbers, must add up to half of head_dim"
      f" {head_dim}"
    )
  return TextConfig(
    rope_theta=theta, mrope_section=section, **values, **family.text_traits
  )


def _vision_config(
  vision: dict[str, Any], text: TextConfig, family: Family
) -> VisionConfig:
  _require(vision, family.vision_fixed, "vision_config.")
  vision = dict(vision)
  if "in_chans" in vision:  # the hub's spelling
    vision.setdefault("in_channels", vision["in_chans"])
  values = _pick(vision, family.vision)
  for name in ("patch_size", "temporal_patch_size"):
    values[name] = _single(values[name], f"vision_config.{name}")
  for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
    if name in values:
      values[name] = tuple(values[name])
  rope = vision.get("rope_parameters") or {}
  theta = rope.get("rope_theta") or _VISION_ROPE_THETA
  config = VisionConfig(rope_theta=float(theta), **values, **family.vision_traits)
  if config.out_hidden_size != text.hidden_size:
    raise ConfigError(
      f"vision_config.out_hidden_size {config.out_hidden_size} is not the language"
      f" model's width {text.hidden_size}"
    )
  if config.hidden_size % (4 * config.num_heads):
    raise ConfigError("vision_config: head width must be a multiple of 4 for 2-D rope")
  positions = config.num_position_embeddings
  if math.isqrt(positions) ** 2 != positions:
    raise ConfigError(
      f"vision_config.num_position_embeddings = {positions} is not supported (a square"
      " is)"
    )
  taken = config.deepstack_visual_indexes
  known = set(range(config.depth))
  if sorted(set(taken) & known) != list(taken) or len(taken) > text.num_hidden_layers:
    raise ConfigError(
      f"vision_config.deepstack_visual_indexes = {list(taken)} is not supported:"
      f" ascending layers of {config.depth}, at most {text.num_hidden_layers} of them,"
      " are"
    )
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
  model_type = config.get("model_type")
  if model_type not in FAMILIES:
    known = " and ".join(map(repr, FAMILIES))
    raise ConfigError(f"model_type {model_type!r} is not supported ({known} are)")
  family = FAMILIES[model_type]
  if "quantization_config" in config:
    raise ConfigError("quantised checkpoints are not supported: convert to safetensors")
  # Qwen2.5-VL's flat layout on the hub has the language model's keys at the root.
  text = config.get("text_config") or ({} if family.nested else config)
  tied = config.get("tie_word_embeddings") or text.get("tie_word_embeddings") or False
  text_config = _text_config(text, family)
  vision = _vision_config(config.get("vision_config") or {}, text_config, family)
  special = {}
  for name in _SPECIAL:
    found = [c[name] for c in (text, config) if c.get(name) is not None]
    special[name] = found[0] if found else family.text[name]
  generation = generation or {}
  eos = _ids(generation.get("eos_token_id")) or _ids(special["eos_token_id"])
  if not eos:
    raise ConfigError("there is no eos_token_id, here or in generation_config.json")
  pad = special["pad_token_id"]
  if pad is None:
    pad = generation.get("pad_token_id")
  if pad is None:  # as transformers' generate does
    pad = eos[0]
  return ModelConfig(
    model_type=model_type,
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
  family = FAMILIES[config.model_type]
  special = {
    "bos_token_id": config.bos_token_id,
    "eos_token_id": config.eos_token_ids[0],
    "pad_token_id": config.pad_token_id,
  }
  rope = {
    "rope_type": "default",
    "rope_theta": config.text.rope_theta,
    "mrope_section": list(config.text.mrope_section),
  }
  if config.text.mrope_interleaved:
    rope["mrope_interleaved"] = True
  text = {
    **{name: getattr(config.text, name) for name in family.text if name not in special},
    "model_type": f"{config.model_type}_text",
    **family.text_fixed,
    "rope_parameters": rope,
    **special,
    "dtype": dtype,
  }
  vision = {name: getattr(config.vision, name) for name in family.vision}
  vision = {
    **{k: list(v) if isinstance(v, tuple) else v for k, v in vision.items()},
    "model_type": f"{config.model_type}_vision",
    **family.vision_fixed,
    "rope_parameters": {"rope_type": "axial", "rope_theta": config.vision.rope_theta},
    "dtype": dtype,
  }
  return {
    "architectures": [family.architecture],
    "model_type": config.model_type,
    "dtype": dtype,
    "tie_word_embeddings": config.tie_word_embeddings,
    **{name: getattr(config, name) for name in _ID_DEFAULTS},
    **special,
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
