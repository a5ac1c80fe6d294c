"""Hugging Face folders of random weights for the benches: about 3 M and 56 M numbers.

Qwen2.5-VL in small: tied heads, grouped queries, a window tower of about a fifth of all
numbers, and, as in Qwen's own, more embeddings than the tokenizer has tokens.
"""

import json
import pathlib
import sys
import sysconfig

import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import nnx
from tokenizers import decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as token_models

from fmd_jax import models, prompts
from fmd_jax.models import config as model_config
from tests.models import tiny

# Ids from here on are the control tokens.
WORDS = 2000
# Logits then have a spread of about 1 (small) and 2 (medium), and the layers outweigh
# the embeddings: with tied heads, a fan-in start would echo its last token for ever.
STD = 0.08
# 640 x 480 pixels are 23 x 17 = 391 visual tokens.
IMAGE = (640, 480)

SIZES = {
  "small": {
    "text": {
      "vocab_size": 2048,
      "hidden_size": 192,
      "intermediate_size": 512,
      "num_hidden_layers": 5,
      "num_attention_heads": 6,
      "num_key_value_heads": 2,
      "rope_parameters": {"rope_theta": 1e6, "mrope_section": [4, 6, 6]},
    },
    "vision": {
      "depth": 4,
      "hidden_size": 96,
      "intermediate_size": 256,
      "num_heads": 4,
      "out_hidden_size": 192,
      "fullatt_block_indexes": [1, 3],
    },
  },
  "medium": {
    "text": {
      "vocab_size": 16384,
      "hidden_size": 512,
      "intermediate_size": 1408,
      "num_hidden_layers": 13,
      "num_attention_heads": 8,
      "num_key_value_heads": 2,
      "rope_parameters": {"rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    },
    "vision": {
      "depth": 6,
      "hidden_size": 320,
      "intermediate_size": 880,
      "num_heads": 8,
      "out_hidden_size": 512,
      "fullatt_block_indexes": [2, 5],
    },
  },
}


def _tokenizer() -> tokenizers.Tokenizer:
  made = tokenizers.Tokenizer(token_models.BPE())
  made.normalizer = normalizers.NFC()
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=WORDS,
    show_progress=False,
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
  )
  library = pathlib.Path(sysconfig.get_paths()["stdlib"])
  names = ("argparse", "json/decoder", "random", "statistics", "typing", "pathlib")
  corpus = [(library / f"{name}.py").read_text() for name in names]
  corpus += [json.dumps(prompts.render("questioner", k=2))] * 50
  made.train_from_iterator(corpus, trainer)
  if made.get_vocab_size() != WORDS:
    raise RuntimeError(f"the corpus gave {made.get_vocab_size()} tokens, not {WORDS}")
  made.add_special_tokens(
    [tokenizers.AddedToken(t, special=True, normalized=False) for t in tiny.SPECIAL]
  )
  made.add_tokens(
    [
      tokenizers.AddedToken(t, special=False, normalized=False)
      for t in tiny.NOT_SPECIAL
    ]
  )
  return made


def config(size: str) -> model_config.ModelConfig:
  """The config of one of `SIZES`."""
  ids = {name: WORDS + i for i, name in enumerate(tiny.SPECIAL)}
  ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
  content = {
    "model_type": "qwen2_5_vl",
    "tie_word_embeddings": True,
    "image_token_id": ids["<|image_pad|>"],
    "video_token_id": ids["<|video_pad|>"],
    "vision_start_token_id": ids["<|vision_start|>"],
    "vision_end_token_id": ids["<|vision_end|>"],
    "text_config": {
      "rms_norm_eps": 1e-6,
      "bos_token_id": ids["<|endoftext|>"],
      "eos_token_id": ends[0],
      "pad_token_id": ids["<|endoftext|>"],
      **SIZES[size]["text"],
    },
    "vision_config": {"tokens_per_second": 2, **SIZES[size]["vision"]},
  }
  generation = {"eos_token_id": ends, "pad_token_id": ids["<|endoftext|>"]}
  return model_config.from_dict(content, generation)


def make(size: str, path: str | pathlib.Path) -> pathlib.Path:
  """Writes the folder, the same bytes every time; one that is whole is left alone.

  Args:
    size: "small" or "medium".
    path: of the folder.

  Returns:
    the path, of config.json, model.safetensors, tokenizer, template and image settings.
  """
  path = pathlib.Path(path)
  last = path / "preprocessor_config.json"  # written last
  if last.is_file():
    return path
  path.mkdir(parents=True, exist_ok=True)
  graphdef, params = nnx.split(nnx.eval_shape(lambda: models.init(config(size), 0)))
  rng = np.random.default_rng(0)

  def fill(names, leaf):
    noise = STD * rng.standard_normal(leaf.shape, np.float32)
    return leaf.replace(jnp.asarray(noise + (names[-1] == "scale")))

  models.save(nnx.merge(graphdef, nnx.map_state(fill, params)), path)
  _tokenizer().save(str(path / "tokenizer.json"))
  (path / "chat_template.jinja").write_text(tiny.CHAT_TEMPLATE)
  settings = {
    "tokenizer_class": "Qwen2Tokenizer",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
  }
  (path / "tokenizer_config.json").write_text(json.dumps(settings))
  settings = {"image_processor_type": "Qwen2VLImageProcessor"}
  last.write_text(json.dumps(settings))
  return path


if __name__ == "__main__":
  print(make(*sys.argv[1:3]))
