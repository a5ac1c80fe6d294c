"""Messages and images -> token ids and patches, from a checkpoint folder's own files.

Needs tokenizers, jinja2, pillow and numpy only: neither torch nor transformers.
The patches are those of `fmd_jax.pixels`, the chat string that of transformers'
`apply_chat_template` (tested).
"""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import PIL.Image
import tokenizers

from fmd_jax import pixels
from fmd_jax.models.buckets import bucket
from fmd_jax.pixels import Image, ImageSettings

IMAGE_TOKEN = "<|image_pad|>"

Messages = list[dict[str, Any]]

# What transformers' class assumes where preprocessor_config.json is silent.
_CLASS_DEFAULTS = {
  "do_resize": True,
  "do_rescale": True,
  "do_normalize": True,
  "do_convert_rgb": True,
  "resample": int(PIL.Image.Resampling.BICUBIC),
  "rescale_factor": 1 / 255,
  "image_mean": [0.48145466, 0.4578275, 0.40821073],
  "image_std": [0.26862954, 0.26130258, 0.27577711],
  "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
  "patch_size": 14,
  "temporal_patch_size": 2,
  "merge_size": 2,
}


@dataclasses.dataclass(frozen=True)
class Batch:
  """Prompts ready for the model.

  Attributes:
    input_ids: int32 [B, P], right-padded to a bucket with the pad id.
    lengths: int32 [B], real tokens of each row: never guess them from the pad id,
      which is an end-of-sequence id too.
    pixel_values: float32 [N, C·T·14·14], the patches of all images in row order.
    image_grid_thw: int64 [I, 3], patches of each image along time, height, width.
  """

  input_ids: np.ndarray
  lengths: np.ndarray
  pixel_values: np.ndarray
  image_grid_thw: np.ndarray


class Processor:
  """The tokenizer, chat template and image settings of one checkpoint folder.

  Attributes:
    image_settings: how images become patches.
    vocab_size: one more than the tokenizer's greatest id; the model's embedding may
      have more rows.
    special_ids: sorted ids of the control tokens.
    pad_id: what rows are padded with.
    image_token_id: the id of `<|image_pad|>`.
  """

  def __init__(
    self,
    tokenizer: tokenizers.Tokenizer,
    chat_template: str,
    image_settings: ImageSettings,
    pad_token: str,
  ):
    tokenizer.no_padding()
    tokenizer.no_truncation()
    self._tokenizer = tokenizer
    self._template = _environment().from_string(chat_template)
    self.image_settings = image_settings
    self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    # Some control tokens, <|fim_prefix|> for one, are added without the special flag.
    self.special_ids = tuple(
      index
      for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
      if token.special or (token.content[:2], token.content[-2:]) == ("<|", "|>")
    )
    self.pad_id = self.token_id(pad_token)
    self.image_token_id = self.token_id(IMAGE_TOKEN)

  @classmethod
  def from_folder(cls, folder: str | os.PathLike) -> "Processor":
    """Reads tokenizer.json, tokenizer_config.json, the template and the settings.

    Raises:
      FileNotFoundError: a file that it takes is not in `folder`.
    """
    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").is_file():
      raise FileNotFoundError(f"{folder} is not a checkpoint: it has no tokenizer.json")
    names = _read_json(folder / "tokenizer_config.json")
    pad = names.get("pad_token") or "<|endoftext|>"
    return cls(
      tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")),
      _chat_template(folder, names),
      _image_settings(folder),
      pad if isinstance(pad, str) else pad["content"],
    )

  def token_id(self, token: str) -> int:
    """The id of a token given by its text; ValueError when there is none."""
    index = self._tokenizer.token_to_id(token)
    if index is None:
      raise ValueError(f"the tokenizer has no token {token!r}")
    return index

  def reads_as(self, other: "Processor") -> bool:
    """Whether both have the same tokens under the same ids."""
    return self._tokenizer.get_vocab() == other._tokenizer.get_vocab()

  def chat(self, messages: Messages, add_generation_prompt: bool = True) -> str:
    """The prompt string, with one `<|image_pad|>` for each image."""
    return self._template.render(
      messages=messages, add_generation_prompt=add_generation_prompt
    )

  def tokens(self, text: str) -> list[int]:
    """Token ids of a text, control tokens recognised, nothing added."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """The text of `ids`, which the caller has cut to length; no control tokens."""
    return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

  def images(self, images: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
    """Patches of images, rows in 2x2-block order.

    Returns:
      pixel_values float32 [N, C·T·14·14] and image_grid_thw int64 [I, 3].
    """
    settings = self.image_settings
    width = 3 * settings.temporal_patch_size * settings.patch_size**2
    patches, grids = [np.zeros((0, width), np.float32)], []
    for image in images:
      one, grid = pixels.patches(pixels.resize(image, settings), settings)
      patches.append(one)
      grids.append(grid)
    return np.concatenate(patches), np.array(grids, np.int64).reshape(-1, 3)

  def encode(
    self,
    messages_batch: Sequence[Messages],
    images_batch: Sequence[Sequence[Image]],
    add_generation_prompt: bool = True,
    multiple: int = 8,
  ) -> Batch:
    """Prompts and their images as one right-padded batch.

    Args:
      messages_batch: B chats.
      images_batch: for each chat its images, in the order of their places.
      add_generation_prompt: end with the head of the assistant's turn.
      multiple: the width is one of it; see `buckets.bucket`.

    Raises:
      ValueError: a chat has not as many `<|image_pad|>` as images, for instance
        because a text inside it contains that token.
    """
    if len(messages_batch) != len(images_batch):
      raise ValueError(f"{len(messages_batch)} chats, {len(images_batch)} image lists")
    flat = [image for images in images_batch for image in images]
    pixel_values, grids = self.images(flat)
    sizes = iter(grids.prod(-1) // self.image_settings.merge_size**2)
    rows = []
    for row, (messages, images) in enumerate(
      zip(messages_batch, images_batch, strict=True)
    ):
      ids = np.array(self.tokens(self.chat(messages, add_generation_prompt)), np.int32)
      places = ids == self.image_token_id
      if places.sum() != len(images):
        raise ValueError(
          f"chat {row} has {places.sum()} {IMAGE_TOKEN} for {len(images)} images"
        )
      repeats = np.ones(len(ids), np.int64)
      repeats[places] = [next(sizes) for _ in images]
      rows.append(np.repeat(ids, repeats))
    lengths = np.array([len(row) for row in rows], np.int32)
    padded = bucket(int(lengths.max(initial=1)), 8, multiple)
    input_ids = np.full((len(rows), padded), self.pad_id, np.int32)
    for row, ids in enumerate(rows):
      input_ids[row, : len(ids)] = ids
    return Batch(input_ids, lengths, pixel_values, grids)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise FileNotFoundError(f"{path.parent} is not a checkpoint: it has no {path.name}")
  return json.loads(path.read_text())


def _chat_template(folder: pathlib.Path, names: dict[str, Any]) -> str:
  if (folder / "chat_template.jinja").is_file():
    return (folder / "chat_template.jinja").read_text()
  if (folder / "chat_template.json").is_file():
    return _read_json(folder / "chat_template.json")["chat_template"]
  if "chat_template" in names:
    return names["chat_template"]
  raise FileNotFoundError(f"{folder} has no chat template (chat_template.jinja)")


def _image_settings(folder: pathlib.Path) -> ImageSettings:
  # transformers 5 writes a whole processor's settings into one processor_config.json.
  whole = folder / "processor_config.json"
  found = _read_json(whole) if whole.is_file() else {}
  if "image_processor" in found:
    found = found["image_processor"]
  else:
    found = _read_json(folder / "preprocessor_config.json")
  values = {**_CLASS_DEFAULTS, **found}
  off = [k for k in values if k.startswith("do_") and values[k] is False]
  if set(off) & set(_CLASS_DEFAULTS):
    raise ValueError(f"{folder}: image settings switch off {', '.join(off)}")
  size = dict(values["size"])
  # The older spelling wins where both are given, as in transformers.
  if values.get("min_pixels") is not None:
    size["shortest_edge"] = values["min_pixels"]
  if values.get("max_pixels") is not None:
    size["longest_edge"] = values["max_pixels"]
  return ImageSettings(
    patch_size=values["patch_size"],
    merge_size=values["merge_size"],
    temporal_patch_size=values["temporal_patch_size"],
    min_pixels=size["shortest_edge"],
    max_pixels=size["longest_edge"],
    resample=values["resample"],
    rescale_factor=values["rescale_factor"],
    mean=tuple(values["image_mean"]),
    std=tuple(values["image_std"]),
  )


def _environment() -> jinja2.Environment:
  # A template is a stranger's program: sandboxed, with transformers' options.
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
  )

  def raise_exception(message: str):
    raise jinja2.exceptions.TemplateError(message)

  # Jinja's own tojson escapes HTML.
  environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
  environment.globals["raise_exception"] = raise_exception
  environment.globals["strftime_now"] = datetime.datetime.now().strftime
  return environment
