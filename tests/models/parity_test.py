"""Our forward pass, decoding and files against transformers, fp32.

Tolerance 1e-4 of the largest logit; what is measured is 2e-6. Mistakes that were
planted and seen: rows and columns of the 2-D rope swapped, the tanh GELU (4e-4), window
layers made full, heads grouped [R, KV] instead of [KV, R], sections of M-RoPE in
another order: all but the GELU differ by more than 1e-2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models
from fmd_jax.models import decode
from tests.models import peer, tiny

TOLERANCE = 1e-4
ONE = ([3, (8, 12), 4],)  # 112 x 168: two windows, the second half filled
CASES = {
  # Two images in a row, neither square, windows of four shapes; unequal rows.
  "padded": ({}, [[3, (10, 14), 4, (6, 4), 2], [2, (4, 8), 3], [5]]),
  "untied": ({"tied": False}, ONE),
  "all windows": ({"vision": {"fullatt_block_indexes": []}}, ONE),
  "all full": ({"vision": {"fullatt_block_indexes": [0, 1, 2, 3]}}, ONE),
  "one image, small windows": (
    {"vision": {"window_size": 56, "num_heads": 1, "depth": 2}},
    [[1, (8, 8), 5]],
  ),
  "one key head, many layers": (
    {"text": {"num_key_value_heads": 1, "num_hidden_layers": 5}},
    ONE,
  ),
  "all key heads": (
    {"text": {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}},
    ONE,
  ),
  "other rope": (
    {
      "text": {
        "num_attention_heads": 2,
        "rope_parameters": {
          "rope_type": "default",
          "rope_theta": 1e6,
          "mrope_section": [4, 6, 6],
        },
      }
    },
    ONE,
  ),
}


@pytest.fixture(scope="module")
def default(tmp_path_factory):
  """transformers' model, its folder, and ours loaded from it."""
  theirs = peer.peer()
  folder = peer.saved(theirs, tmp_path_factory.mktemp("default"))
  return theirs, folder, models.load(folder)


@pytest.mark.parametrize("name", CASES)
def test_logits(name, tmp_path):
  settings, contents = CASES[name]
  theirs, given = peer.peer(**settings), peer.rows(*contents)
  ours = models.load(peer.saved(theirs, tmp_path))
  wanted = peer.logits(theirs, given)
  got = ours(*_call(given))
  assert got.dtype == jnp.float32
  assert peer.difference(got, wanted, given.attention_mask) < TOLERANCE


def _call(given: peer.Rows):
  mask = given.attention_mask
  ids = given.input_ids
  return ids, given.pixel_values, given.image_grid_thw, mask if (~mask).any() else None


def test_left_padding_changes_nothing(default):
  # Positions must count real tokens: from the padding on they would be shifted, and
  # an image's three positions with them.
  _, _, ours = default
  given = peer.rows([3, (4, 8), 4], [2, (4, 4), 1])
  order = np.argsort(given.attention_mask, axis=1, kind="stable")
  left = given._replace(
    input_ids=np.take_along_axis(given.input_ids, order, 1),
    attention_mask=np.take_along_axis(given.attention_mask, order, 1),
  )
  got = np.asarray(ours(*_call(left)))
  wanted = np.take_along_axis(np.asarray(ours(*_call(given))), order[..., None], 1)
  assert peer.difference(got, wanted, left.attention_mask) < 1e-5


def test_positions_equal_get_rope_index(default):
  # Images advance the text by their longer side, not by their number of tokens.
  theirs, _, ours = default
  given = peer.rows([3, (10, 14), 4, (6, 4)], [(4, 8), 3], [2, (14, 4), 1])
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
  # A cache written one place off, or positions that go on from the row's length and
  # not from the image's, give other tokens within the first few.
  theirs, _, ours = default
  new, contents = 64, ([3, (10, 14), 4], [2, (4, 8), 9, (6, 4), 1])
  wanted = []
  for seed, content in enumerate(contents):  # generate pads left; row by row it's moot
    alone = peer.rows(content, seed=seed)
    generated = theirs.generate(
      **peer.inputs(alone), max_new_tokens=new, do_sample=False
    )
    wanted.append(generated[0, alone.input_ids.shape[1] :].numpy())
  alone = [peer.rows(content, seed=seed) for seed, content in enumerate(contents)]
  assert len({tuple(tokens) for tokens in wanted}) == 2
  got = _greedy(ours, alone, new)
  np.testing.assert_array_equal(got, np.stack(wanted))


def _greedy(model, alone, new):
  """Both rows in one batch, right-padded, token by token."""
  batch = len(alone)
  lengths = np.array([r.input_ids.shape[1] for r in alone])
  ids = np.full((batch, lengths.max()), peer.PAD, np.int32)
  for i, r in enumerate(alone):
    ids[i, : lengths[i]] = r.input_ids[0]
  grid = np.concatenate([r.image_grid_thw for r in alone])
  pixels = np.concatenate([r.pixel_values for r in alone])
  positions, following = models.mrope_positions(ids, grid, lengths, model.config)
  plan = models.vision_plan(grid, model.config.vision)
  graphdef, params = nnx.split(model)

  @jax.jit
  def run(params):
    model = nnx.merge(graphdef, params)
    size = ids.shape[1]
    seen = jnp.arange(size) < lengths[:, None]
    hidden, prefix = model.language(
      model.embed(ids, model.encode_images(pixels, plan))[:, None],
      positions[:, :, None],
      jnp.tril(jnp.ones((size, size), bool)) & seen[:, None, None],
    )
    prefix = jax.tree.map(lambda x: x[:, :, 0], prefix)
    prefix = decode.prefix_stacks(prefix, 1)
    # Rubbish, not zeros: what is not written yet must not be seen.
    cache = jax.tree.map(lambda x: x + 9, decode.empty_cache(prefix, 1, new))
    run_one = model.decoder(prefix, seen)
    last = hidden[jnp.arange(batch), 0, lengths - 1][:, None]

    def step(carry, index):
      hidden, cache = carry
      token = jnp.argmax(model.unembed(hidden), -1)
      position = jnp.broadcast_to((following + index)[None, :, None], (3, batch, 1))
      carry = run_one(model.embed(token, None), position, cache, index)
      return carry, token[:, 0]

    return jax.lax.scan(step, (last, cache), jnp.arange(new))[1].T

  return np.asarray(run(params))


def test_a_folder_of_ours_is_one_of_theirs(default, tmp_path):
  # A forgotten transpose of a square kernel keeps every shape; equal logits show it.
  import transformers

  theirs, _, ours = default
  models.save(ours, tmp_path)
  again, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    tmp_path, dtype="float32", output_loading_info=True
  )
  assert not any(report.values()), report
  given = peer.rows(*ONE)
  np.testing.assert_array_equal(peer.logits(again, given), peer.logits(theirs, given))
  assert again.config.text_config.rope_parameters == {
    "rope_type": "default",
    "rope_theta": 1e4,
    "mrope_section": [2, 3, 3],
  }
  assert again.generation_config.eos_token_id == [peer.EOS]


def test_bfloat16_shards_of_theirs(tmp_path):
  # Big checkpoints come in bfloat16, in shards with an index.
  import torch

  half = peer.peer(tied=False).to(torch.bfloat16)
  half.save_pretrained(tmp_path, max_shard_size="100KB")
  assert not (tmp_path / "model.safetensors").exists()
  # Read again: `.to` has rounded the rotary tables too, which no file holds.
  theirs, given = type(half).from_pretrained(tmp_path, dtype="float32"), peer.rows(*ONE)
  got = models.load(tmp_path)(*_call(given))
  wanted = peer.logits(theirs, given)
  assert peer.difference(got, wanted, given.attention_mask) < TOLERANCE
  kernel = models.load(tmp_path, dtype=jnp.bfloat16).lm_head.kernel
  assert kernel.dtype == jnp.bfloat16


def test_a_bfloat16_export_is_one_of_theirs(tmp_path):
  # Cut to its high bits instead of rounded, a weight is off by up to two units.
  import torch
  import transformers

  ours = tiny.model(seed=3)
  models.save(ours, tmp_path, dtype=jnp.bfloat16)
  kind = transformers.Qwen2_5_VLForConditionalGeneration
  stored = kind.from_pretrained(tmp_path, dtype="auto")
  assert stored.dtype == torch.bfloat16
  head = np.asarray(ours.lm_head.kernel[...].T.astype(jnp.bfloat16), np.float32)
  np.testing.assert_array_equal(stored.lm_head.weight.detach().float().numpy(), head)
  theirs = kind.from_pretrained(tmp_path, dtype="float32")
  ids = np.random.default_rng(0).integers(0, tiny.WORDS, (2, 9))
  with torch.no_grad():
    wanted = theirs(torch.tensor(ids)).logits.numpy()
  got = models.load(tmp_path)(ids)
  assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
