"""The folder of the Qwen3-VL member, before any training, in transformers."""

import json
import random

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

from fmd_jax import inference, models, questioner
from fmd_jax.models.processor import Processor
from fmd_jax.prompts import render
from fmd_jax.testbed import dataset, folder
from fmd_jax.testbed.card import ASSETS
from fmd_jax.world import png
from fmd_jax.world.drawing import render as draw
from fmd_jax.world.scenes import sample_scene


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
  """As the recipe writes it; all parameters moved, or biases would be 0."""
  path = tmp_path_factory.mktemp("untrained")
  tokenizer = tokenizers.Tokenizer.from_file(str(ASSETS / "answerer/tokenizer.json"))
  folder.write_tokenizer(tokenizer, path, folder.OTHER.family)
  config = folder.model_config(tokenizer, folder.OTHER)
  (path / "config.json").write_text(json.dumps(config))
  model = models.init(models.config.from_folder(path), seed=0)
  rng = np.random.default_rng(0)
  graphdef, params = nnx.split(model)
  move = lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32)  # noqa: E731
  models.save(nnx.merge(graphdef, jax.tree.map(move, params)), path)
  return path


def test_it_is_at_most_8_mb_and_sees_16_tokens(untrained):
  assert sum(file.stat().st_size for file in untrained.iterdir()) <= 8e6
  processor = Processor.from_folder(untrained)
  for side in (112, 300):  # a larger picture costs no more
    patches, grid = processor.images([np.zeros((side, side, 3), np.uint8)])
    assert grid.tolist() == [[1, 8, 8]] and patches.shape == (64, 3 * 2 * 16**2)
  assert grid.prod() // 4 == dataset.CELLS


def test_transformers_loads_it_with_equal_logits(untrained):
  """A key of the config that one of the two reads otherwise: sections, deepstack."""
  import torch
  import transformers

  processor = Processor.from_folder(untrained)
  image = draw(sample_scene(random.Random(0)))
  batch = processor.encode([render("answerer", question="Where is it?")], [[image]])
  n = batch.lengths[0]
  ours = models.load(untrained)(
    batch.input_ids[:, :n], batch.pixel_values, batch.image_grid_thw
  )
  theirs, report = transformers.AutoModelForImageTextToText.from_pretrained(
    untrained, dtype=torch.float32, output_loading_info=True
  )
  assert isinstance(theirs, transformers.Qwen3VLForConditionalGeneration)
  assert not any(report.values()), report
  ids = torch.tensor(batch.input_ids[:, :n], dtype=torch.long)
  with torch.no_grad():
    wanted = theirs(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      pixel_values=torch.tensor(batch.pixel_values),
      image_grid_thw=torch.tensor(batch.image_grid_thw),
      mm_token_type_ids=(ids == processor.image_token_id).int(),
    ).logits.numpy()
  difference = np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()
  assert difference <= 1e-4


def test_the_hf_engine_says_what_our_own_decoder_says(untrained):
  """From the encoded picture to the text: patches, positions, deepstack, decoding."""
  rng, steps = random.Random(1), 12
  scenes = [sample_scene(rng) for _ in range(3)]
  questions = ["What color is the star?", "Is there a red circle?", "How many?"]
  asked = [(scene, question) for scene in scenes for question in questions]
  images = [png.encode(draw(scene), scene) for scene, _ in asked]
  messages = [render("answerer", question=question) for _, question in asked]
  engine = inference.resolve(f"hf://{untrained}?threads=1")
  replies = engine.generate(
    [
      inference.Request(message, (image,), max_tokens=steps)
      for message, image in zip(messages, images, strict=True)
    ]
  )
  batch = Processor.from_folder(untrained).encode(messages, [[i] for i in images])
  columns = np.arange(batch.input_ids.shape[1])
  tokens, _, lengths = questioner.generate(
    models.load(untrained),
    batch.input_ids,
    batch.pixel_values,
    batch.image_grid_thw,
    attention_mask=columns < batch.lengths[:, None],
    max_new_tokens=steps,
    temperature=0.0,
    seed=0,
  )
  tokenizer = tokenizers.Tokenizer.from_file(str(untrained / "tokenizer.json"))
  rows = [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]
  assert [reply.text for reply in replies] == tokenizer.decode_batch(rows)
