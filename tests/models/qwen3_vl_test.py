"""Qwen3-VL against transformers, fp32: forward pass, decoding, files, patches.

Tolerance 2e-5 of the largest logit; what is measured is 2e-6. Mistakes that were
planted and seen: M-RoPE by sections, or its rows and columns not ended, queries normed
after their rotation, deepstack taken a layer early, added a layer late or at every
layer, the position table's rows and columns swapped, its nearest entry taken, its
corners not aligned: all differ by more than 5e-2, and either GELU in the other's place
by 1e-4.
"""

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from fmd_jax import models, questioner
from tests.models import peer

TOLERANCE = 2e-5
ONE = ([3, (8, 12), 4],)
ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
CASES = {
  # Two images in a row, none square, unequal rows, one of them without an image.
  "padded": ({}, [[3, (10, 14), 4, (6, 4), 2], [2, (4, 8), 3], [5]]),
  # Rows and columns end after one frequency of eight, and time goes on alone: at the
  # usual theta what follows turns too little to show it.
  "untied, heads as wide as the model": (
    {
      "tied": False,
      "text": {
        "head_dim": 16,
        "rope_parameters": {
          **ROPE,
          "rope_theta": 30.0,
          "mrope_section": [6, 1, 1],
        },
      },
    },
    ONE,
  ),
  "one key head, equal sections": (
    {
      "text": {
        "num_key_value_heads": 1,
        "rope_parameters": {**ROPE, "mrope_section": [4, 4, 4]},
      }
    },
    ONE,
  ),
  "all key heads, narrow": (
    {
      "text": {
        "num_key_value_heads": 4,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]},
      }
    },
    ONE,
  ),
  # As many deepstack layers as the language model has layers.
  "deepstack of three": (
    {"vision": {"deepstack_visual_indexes": [0, 1, 3]}},
    [[3, (4, 6), 4, (8, 4), 1], [9, (4, 4), 1]],
  ),
  "deepstack of one, the last layer": (
    {
      "vision": {"deepstack_visual_indexes": [3], "num_heads": 1},
      "text": {"num_hidden_layers": 4},
    },
    ONE,
  ),
  "no deepstack": ({"vision": {"deepstack_visual_indexes": []}}, ONE),
  # A grid of the table's own size, one smaller and one larger, in one batch.
  "larger table": (
    {"vision": {"num_position_embeddings": 64, "patch_size": 2, "depth": 3}},
    [[1, (8, 8), 2], [1, (4, 6), 3], [2, (12, 10), 1]],
  ),
}


def make(**settings):
  return peer.peer(family="Qwen3VL", **settings)


def rows(theirs, *contents, **more):
  side = theirs.config.vision_config.patch_size
  return peer.rows(*contents, patch_size=side, **more)


def call(given):
  return given.input_ids, given.pixel_values, given.image_grid_thw, given.attention_mask


@pytest.fixture(scope="module")
def default(tmp_path_factory):
  """transformers' model, and ours loaded from its folder.

  Untied: a tied head of random weights repeats the last token for ever.
  """
  theirs = make(tied=False)
  return theirs, models.load(peer.saved(theirs, tmp_path_factory.mktemp("default")))


@pytest.mark.parametrize("name", CASES)
def test_logits(name, tmp_path):
  settings, contents = CASES[name]
  theirs = make(**settings)
  given = rows(theirs, *contents)
  ours = models.load(peer.saved(theirs, tmp_path))
  got = ours(*call(given))
  wanted = peer.logits(theirs, given)
  assert peer.difference(got, wanted, given.attention_mask) < TOLERANCE


def test_gradient(default, tmp_path):
  # A gradient that stops at the position table, at what deepstack keeps of a layer or
  # at its place in a row leaves every logit as it is.
  import torch

  theirs, ours = default
  given = rows(theirs, [3, (10, 6), 4, (6, 4), 2], [2, (4, 8), 3])
  named = peer.inputs(given)
  weights = np.random.default_rng(0).normal(size=(*given.input_ids.shape, 96))
  weights = (weights * given.attention_mask[..., None]).astype(np.float32)
  graphdef, params = nnx.split(ours)
  loss = lambda params: (weights * nnx.merge(graphdef, params)(*call(given))).sum()  # noqa: E731
  got = jax.grad(loss)(params)

  copy = type(theirs)(theirs.config)
  copy.load_state_dict(theirs.state_dict())
  (copy(**named).logits * torch.from_numpy(weights)).sum().backward()
  with torch.no_grad():
    for parameter in copy.parameters():
      parameter.copy_(parameter.grad)
  # Saved as if they were the weights, the gradients come back in our layout.
  wanted = nnx.state(models.load(peer.saved(copy, tmp_path)))
  pairs = zip(nnx.to_flat_state(got), nnx.to_flat_state(wanted))
  for (path, ours_now), (other, theirs_now) in pairs:
    assert path == other
    ours_now, theirs_now = np.asarray(ours_now[...]), np.asarray(theirs_now[...])
    scale = np.abs(theirs_now).max()
    assert scale > 0 and np.abs(ours_now - theirs_now).max() < 1e-4 * scale, path


def test_text_alone(default):
  # Deepstack of no image, or a first feature that fills no place.
  theirs, ours = default
  given = peer.rows([7, (2, 2), 1])
  words = np.where(given.input_ids == peer.IMAGE, 5, given.input_ids)
  import torch

  with torch.no_grad():
    wanted = theirs(input_ids=torch.from_numpy(words)).logits.numpy()
  assert peer.difference(ours(words), wanted, given.attention_mask) < TOLERANCE


def test_positions_equal_get_rope_index(default):
  theirs, ours = default
  given = rows(theirs, [3, (10, 14), 4, (6, 4)], [(4, 8), 3], [2, (14, 4), 1])
  named = peer.inputs(given)
  wanted, delta = theirs.model.get_rope_index(
    named["input_ids"],
    mm_token_type_ids=named["mm_token_type_ids"],
    image_grid_thw=named["image_grid_thw"],
    attention_mask=named["attention_mask"],
  )
  got, following = models.mrope_positions(
    given.input_ids, given.image_grid_thw, given.lengths, ours.config
  )
  np.testing.assert_array_equal(got, wanted.numpy())
  np.testing.assert_array_equal(following, delta.numpy()[:, 0] + given.lengths)


def test_greedy_tokens_equal_generate(default):
  # A prompt run without what deepstack adds gives other tokens from the first on;
  # keys cached before their norm, from the second on. The batch of unequal images is
  # bucketed: a position table read for another order of patches shows too.
  theirs, ours = default
  new, contents = 64, ([3, (10, 14), 4], [2, (4, 8), 9, (6, 4), 1])
  wanted = []
  alone = [rows(theirs, content) for content in contents]
  for row in alone:  # generate pads left; row by row it is moot
    tokens = theirs.generate(
      **peer.inputs(row),
      max_new_tokens=new,
      do_sample=False,
      # As ours: a policy never emits these.
      suppress_tokens=[peer.IMAGE, peer.VIDEO, peer.START, peer.END],
    )
    wanted.append(tokens[0, row.input_ids.shape[1] :].numpy())
  longest = max(one.input_ids.shape[1] for one in alone)
  pad = lambda x: np.pad(x[0], (0, longest - x.shape[1]))  # noqa: E731
  got, _, lengths = questioner.generate(
    ours,
    np.stack([pad(one.input_ids) for one in alone]),
    np.concatenate([one.pixel_values for one in alone]),
    np.concatenate([one.image_grid_thw for one in alone]),
    attention_mask=np.stack([pad(one.attention_mask) for one in alone]),
    max_new_tokens=new,
    temperature=0.0,
    seed=0,
  )
  assert min(len(set(tokens)) for tokens in wanted) > 10
  for tokens, length, row in zip(got, lengths, wanted):
    assert length == new
    np.testing.assert_array_equal(tokens, row)


def test_a_folder_of_ours_is_one_of_theirs(default, tmp_path):
  # A forgotten transpose of a square kernel keeps every shape; equal logits show it.
  import transformers

  theirs, ours = default
  models.save(ours, tmp_path)
  again, report = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
    tmp_path, dtype="float32", output_loading_info=True
  )
  assert not any(report.values()), report
  # vLLM reads the hub's names only, and there is no other list of them here.
  peer.saved(theirs, tmp_path / "theirs")
  names = [
    set(safetensors.numpy.load_file(folder / "model.safetensors"))
    for folder in (tmp_path, tmp_path / "theirs")
  ]
  assert names[0] == names[1] and "model.visual.pos_embed.weight" in names[0]
  given = rows(theirs, *ONE)
  np.testing.assert_array_equal(peer.logits(again, given), peer.logits(theirs, given))
  assert again.config.text_config.rope_parameters == {
    "rope_type": "default",
    "rope_theta": 1e4,
    "mrope_section": [6, 3, 3],
    "mrope_interleaved": True,
  }
