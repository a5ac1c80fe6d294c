"""Checkpoint folders and their configs: round trips, and one clear line when bad."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from fmd_jax import models
from fmd_jax.models import config as configs
from fmd_jax.models import tensor_files, weights
from tests.models import tiny


@pytest.fixture(scope="module")
def model():
  return tiny.model(seed=0)


def same(a, b):
  left, right = (dict(nnx.to_flat_state(nnx.state(m))) for m in (a, b))
  assert left.keys() == right.keys()
  return all(np.array_equal(left[k][...], right[k][...]) for k in left)


@pytest.mark.parametrize("family", tiny.FAMILIES, ids=tiny.FAMILY_NAMES)
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path, tied, family):
  model = tiny.model(seed=0, tie_word_embeddings=tied, **family)
  models.save(model, tmp_path)
  again = models.load(tmp_path)
  assert again.config == model.config
  assert again.config.eos_token_ids == (tiny.WORDS + 2, tiny.WORDS)
  assert same(again, model)
  stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  assert ("lm_head.weight" in stored) is not tied


def test_shards_and_names_in_memory(tmp_path, model, monkeypatch):
  # Big models come in shards; transformers' own names are nested one deeper.
  monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 40_000)
  models.save(model, tmp_path)
  files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
  assert len(files) > 2 and "model.safetensors" not in files
  assert same(models.load(tmp_path), model)
  tensors = {}
  for file in files:
    tensors |= safetensors.numpy.load_file(tmp_path / file)
    (tmp_path / file).unlink()
  (tmp_path / "model.safetensors.index.json").unlink()

  def deeper(name):
    if name.startswith("visual."):
      return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)

  safetensors.numpy.save_file(
    {deeper(name): tensor for name, tensor in tensors.items()},
    tmp_path / "model.safetensors",
  )
  assert same(models.load(tmp_path), model)
  # An index or shard left behind by an earlier save would be what `load` reads.
  models.save(model, tmp_path)
  monkeypatch.undo()
  models.save(model, tmp_path)
  assert [p.name for p in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_bfloat16(tmp_path, model):
  # NumPy has no bfloat16; read as raw 16-bit numbers the weights would be noise.
  models.save(model, tmp_path)
  half = models.load(tmp_path, dtype=jnp.bfloat16)
  models.save(half, tmp_path / "half")
  assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
  again = models.load(tmp_path / "half")
  kernel = again.lm_head.kernel[...]
  assert kernel.dtype == jnp.float32
  np.testing.assert_allclose(kernel, model.lm_head.kernel[...], rtol=1e-2)


def test_an_export_that_fails_leaves_the_last_one(tmp_path, model, monkeypatch):
  models.save(model, tmp_path)
  monkeypatch.setattr(weights, "_on_host", lambda array: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    models.save(tiny.model(seed=1), tmp_path)
  assert same(models.load(tmp_path), model)


def test_source_files_are_copied_but_not_its_model(tmp_path, model):
  source = tiny.write_processor(tmp_path / "source")
  (source / "config.json").write_text("{}")
  (source / "model.safetensors").write_text("not ours")
  models.save(model, tmp_path / "out", source=source)
  copied = {path.name for path in (tmp_path / "out").iterdir()}
  assert {"tokenizer.json", "chat_template.jinja", "config.json"} <= copied
  assert same(models.load(tmp_path / "out"), model)


def test_load_needs_config_and_tensors_only(tmp_path, model):
  models.save(model, tmp_path)
  (tmp_path / "generation_config.json").unlink()
  assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
  again = models.load(tmp_path)
  assert again.config.eos_token_ids == (tiny.WORDS + 2,)  # config.json names one


def bad_folders(folder, model):
  """(what to do to a good folder, what the error says)."""
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  config = json.loads((folder / "config.json").read_text())
  store = lambda t: safetensors.numpy.save_file(t, folder / "model.safetensors")  # noqa: E731
  write = lambda c: (folder / "config.json").write_text(json.dumps(c))  # noqa: E731
  norm = "model.norm.weight"
  whole = (folder / "model.safetensors").read_bytes()
  # Each "F32" of the header becomes four bytes longer.
  longer = int.from_bytes(whole[:8], "little") + 4 * len(tensors)
  longer = longer.to_bytes(8, "little")
  index = folder / "model.safetensors.index.json"
  text = config["text_config"]
  return {
    "no config": (
      lambda: (folder / "config.json").unlink(),
      "not a checkpoint folder: it has no config.json",
    ),
    "no weights": (
      lambda: (folder / "model.safetensors").unlink(),
      "not a checkpoint folder: it has no model.safetensors",
    ),
    "config not JSON": (
      lambda: (folder / "config.json").write_text("{"),
      "config.json is not JSON",
    ),
    "weights not safetensors": (
      lambda: (folder / "model.safetensors").write_text("version https://git-lfs"),
      "is not a safetensors file",
    ),
    "cut short": (
      lambda: (folder / "model.safetensors").write_bytes(whole[:-1]),
      "model.safetensors is cut short: ",
    ),
    "header cut short": (
      lambda: (folder / "model.safetensors").write_bytes(whole[:40]),
      "is not a safetensors file",
    ),
    "8-bit floats": (
      lambda: (folder / "model.safetensors").write_bytes(
        whole.replace(b'"F32"', b'"F8_E4M3"').replace(whole[:8], longer, 1)
      ),
      "is F8_E4M3; F64, F32, F16, BF16 can be read",
    ),
    "no such shard": (
      lambda: index.write_text(
        json.dumps({"weight_map": {norm: "model-2.safetensors"}})
      ),
      "model-2.safetensors, named by model.safetensors.index.json, is missing",
    ),
    "other shard": (
      lambda: index.write_text(json.dumps({"weight_map": {"w": "model.safetensors"}})),
      "model.safetensors lacks w, which model.safetensors.index.json says",
    ),
    "missing": (
      lambda: store({k: v for k, v in tensors.items() if k != norm}),
      f"lacks the tensors {norm}",
    ),
    "left over": (
      lambda: store({**tensors, "adapter.weight": tensors[norm]}),
      "unknown tensors adapter.weight",
    ),
    "shape": (
      lambda: store({**tensors, norm: tensors[norm][:-1]}),
      f"{norm} has the shape \\(31,\\)",
    ),
    "other model": (
      lambda: write({**config, "model_type": "qwen3_vl_moe"}),
      "model_type 'qwen3_vl_moe' is not supported .'qwen2_5_vl' and 'qwen3_vl' are",
    ),
    "yarn": (
      lambda: write(
        {
          **config,
          "text_config": {
            **text,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4},
          },
        }
      ),
      "rope type .'yarn'. is not supported",
    ),
    "sections": (
      lambda: write(
        {
          **config,
          "text_config": {**text, "rope_parameters": {"mrope_section": [1, 1, 1]}},
        }
      ),
      "must add up to half of head_dim",
    ),
    "sliding": (
      lambda: write(
        {
          **config,
          "text_config": {**text, "use_sliding_window": True, "sliding_window": 8},
        }
      ),
      "sliding-window attention is not supported",
    ),
    "activation": (
      lambda: write({**config, "text_config": {**text, "hidden_act": "gelu"}}),
      "text_config.hidden_act = 'gelu' is not supported",
    ),
    "quantised": (
      lambda: write({**config, "quantization_config": {"bits": 4}}),
      "quantised checkpoints are not supported",
    ),
    "heads": (
      lambda: write({**config, "text_config": {**text, "num_key_value_heads": 3}}),
      "2 heads",
    ),
    "vision width": (
      lambda: write(
        {**config, "vision_config": {**config["vision_config"], "out_hidden_size": 64}}
      ),
      "out_hidden_size 64 is not the language",
    ),
  }


def test_every_bad_folder_is_told_in_one_line(tmp_path, model):
  # A stack trace from deep inside safetensors or a broadcast tells a user nothing.
  models.save(model, tmp_path / "good")
  for i, name in enumerate(bad_folders(tmp_path / "good", model)):
    folder = tmp_path / str(i)
    models.save(model, folder)
    spoil, message = bad_folders(folder, model)[name]
    spoil()
    with pytest.raises(configs.ConfigError, match=message) as error:
      models.load(folder)
    assert "\n" not in str(error.value), name
    assert str(folder) in str(error.value), name
  with pytest.raises(configs.ConfigError, match="no config.json"):
    models.load(tmp_path / "nowhere")


# What the hub has for Qwen2.5-VL-3B-Instruct: flat, with the old spellings.
HUB = {
  "architectures": ["Qwen2_5_VLForConditionalGeneration"],
  "attention_dropout": 0.0,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
  "vision_token_id": 151654,
  "image_token_id": 151655,
  "video_token_id": 151656,
  "hidden_act": "silu",
  "hidden_size": 2048,
  "initializer_range": 0.02,
  "intermediate_size": 11008,
  "max_position_embeddings": 128000,
  "max_window_layers": 70,
  "model_type": "qwen2_5_vl",
  "num_attention_heads": 16,
  "num_hidden_layers": 36,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "sliding_window": 32768,
  "tie_word_embeddings": True,
  "torch_dtype": "bfloat16",
  "use_cache": True,
  "use_sliding_window": False,
  "vision_config": {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
  },
  "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
  "vocab_size": 151936,
}


def test_both_layouts_of_a_config():
  # Flat keys looked for in text_config alone would all be transformers' defaults.
  generation = {"eos_token_id": [151645, 151643], "pad_token_id": 151643}
  flat = configs.from_dict(HUB, generation)
  assert flat.text == configs.TextConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    mrope_section=(16, 24, 24),
    max_position_embeddings=128000,
    head_dim=128,
    attention_bias=True,
    qk_norm=False,
    mrope_interleaved=False,
  )
  assert flat.vision.hidden_size == 1280 and flat.vision.patch_width == 1176
  assert flat.tie_word_embeddings
  assert flat.eos_token_ids == (151645, 151643) and flat.pad_token_id == 151643
  assert configs.from_dict(configs.to_dict(flat), generation) == flat


def test_hub_config_as_transformers_reads_it():
  import transformers

  theirs = transformers.Qwen2_5_VLConfig(**HUB)
  assert configs.from_dict(json.loads(theirs.to_json_string(use_diff=True))) == (
    configs.from_dict(HUB)
  )
