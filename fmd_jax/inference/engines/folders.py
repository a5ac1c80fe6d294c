"""What a Hugging Face folder says of itself: the kind of its model, its end tokens, its
identity."""

import hashlib
import pathlib
from typing import Any

from fmd_jax.inference.protocol import SpecError

# model_type -> transformers' class. Both keep their parts under the same names.
CLASSES = {
  "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
  "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


def model_type(folder: str, transformers: Any) -> str:
  """A key of `CLASSES`; folders that are no checkpoint end here."""
  path = pathlib.Path(folder)  # A hub id: transformers says what it cannot find.
  if path.is_dir() and not (path / "config.json").is_file():
    raise SpecError(f"{folder} is not a checkpoint: it has no config.json")
  try:
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
  except (OSError, ValueError) as error:
    raise SpecError(f"{folder} cannot be loaded: {error}") from error
  if kind not in CLASSES:
    known = " and ".join(CLASSES)
    raise SpecError(f"{folder} has model_type {kind!r}; the hf engine knows {known}")
  if path.is_dir() and not list(path.glob("*.safetensors")):
    raise SpecError(f"{folder} is not a checkpoint: it has no *.safetensors")
  return kind


def eos_ids(generation_config: Any, config: Any, tokenizer: Any) -> frozenset[int]:
  found = set()
  for ids in (
    generation_config.eos_token_id,
    config.text_config.eos_token_id,
    tokenizer.eos_token_id,
  ):
    found.update(ids if isinstance(ids, (list, tuple)) else [ids])
  return frozenset(found - {None})


def revision(folder: str) -> str:
  """Twelve digits of a hash over the weights and the config; "" for a hub id."""
  path = pathlib.Path(folder)
  if not path.is_dir():
    return ""
  digest = hashlib.sha256()
  for file in (path / "config.json", *sorted(path.glob("*.safetensors"))):
    with open(file, "rb") as opened:
      digest.update(hashlib.file_digest(opened, "sha256").digest())
  return digest.hexdigest()[:12]
