"""The processor against transformers' PIL image processor and chat template."""

import dataclasses
import io
import json
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from fmd_jax import pixels
from fmd_jax.models import processor
from tests.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny.write_processor(
    tmp_path_factory.mktemp("checkpoint"), min_pixels=56 * 56, max_pixels=28 * 28 * 64
  )


@pytest.fixture(scope="module")
def ours(folder):
  return processor.Processor.from_folder(folder)


@pytest.fixture(scope="module")
def hf_images(folder):
  from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
  )

  return Qwen2VLImageProcessorPil.from_pretrained(folder)


def _noise(height, width, channels=3, seed=0):
  shape = (height, width, channels) if channels > 1 else (height, width)
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# A wrong round (half up at 42 and 70), ceil for floor, a swapped height and width or
# another filter gives another grid or other pixels in one of these.
@pytest.mark.parametrize(
  "height,width",
  [
    (112, 112),
    (56, 140),
    (42, 70),
    (70, 42),
    (97, 150),
    (20, 30),
    (40, 900),
    (1000, 700),
    (281, 279),
    # Tiny ones; 200 times as wide as high is the limit.
    (1, 1),
    (3, 500),
    (500, 3),
    (2, 400),
    (4, 4),
  ],
)
def test_patches_equal_transformers(ours, hf_images, height, width):
  image = PIL.Image.fromarray(_noise(height, width))
  expected = hf_images([image], return_tensors="np")
  patches, grid = ours.images([image])
  np.testing.assert_array_equal(grid, expected["image_grid_thw"])
  np.testing.assert_array_equal(patches, expected["pixel_values"])


def test_qwen3_patches_equal_transformers(tmp_path):
  # A mean of CLIP's, 14 or 28 written out somewhere, or the old bounds of area.
  from transformers import AutoImageProcessor

  settings = {
    "size": {"longest_edge": 64 * 32 * 32, "shortest_edge": 4 * 32 * 32},
    "patch_size": 16,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
  }
  for name, given in (("hub", settings), ("silent", {})):
    # A silent file means the class's defaults, though they do not fit the model.
    folder = tiny.write_processor(tmp_path / name, **given)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    theirs = AutoImageProcessor.from_pretrained(folder, backend="pil")
    ours = processor.Processor.from_folder(folder)
    sizes = ((64, 96), (48, 80), (97, 150), (20, 30), (700, 300))
    images = [PIL.Image.fromarray(_noise(*size)) for size in sizes]
    expected = theirs(images, return_tensors="np")
    patches, grids = ours.images(images)
    np.testing.assert_array_equal(grids, expected["image_grid_thw"])
    np.testing.assert_array_equal(patches, expected["pixel_values"])
  assert patches.shape[1] == 1176 and ours.image_settings.mean[0] > 0.48


def test_several_images_in_one_call(ours, hf_images):
  # Joining along a wrong axis, or padding to one size, would differ.
  images = [PIL.Image.fromarray(_noise(h, w, seed=h)) for h, w in [(84, 56), (90, 200)]]
  expected = hf_images(images, return_tensors="np")
  patches, grid = ours.images(images)
  np.testing.assert_array_equal(grid, expected["image_grid_thw"])
  np.testing.assert_array_equal(patches, expected["pixel_values"])
  assert ours.images([])[0].shape == (0, 1176) and ours.images([])[1].shape == (0, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_modes_equal_transformers(ours, hf_images, mode):
  # convert("RGB") alone would drop alpha instead of laying the image on white.
  source = PIL.Image.fromarray(_noise(60, 90, 4), "RGBA")
  image = source.convert("RGB").convert(mode) if mode != "RGBA" else source
  if mode == "LA":
    image.putalpha(source.getchannel("A"))
  expected = hf_images([image], return_tensors="np")["pixel_values"]
  np.testing.assert_array_equal(ours.images([image])[0], expected)


def test_arrays_and_bytes_are_the_same_image(ours):
  array = _noise(70, 98)
  buffer = io.BytesIO()
  PIL.Image.fromarray(array).save(buffer, "PNG")
  expected = ours.images([PIL.Image.fromarray(array)])[0]
  for image in (array, buffer.getvalue(), array / 255.0, array.astype(np.uint16) * 257):
    np.testing.assert_array_equal(ours.images([image])[0], expected)
  grey = _noise(70, 98, 1)
  np.testing.assert_array_equal(
    ours.images([grey[..., None]])[0], ours.images([PIL.Image.fromarray(grey)])[0]
  )


def test_exif_as_transformers_loads_it(ours, hf_images, tmp_path):
  # Its processor rotates nothing: its `load_image` does.
  from transformers.image_utils import load_image

  exif = PIL.Image.Exif()
  for orientation in range(1, 9):
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    PIL.Image.fromarray(_noise(60, 100)).save(path, exif=exif)
    expected = hf_images([load_image(str(path))], return_tensors="np")
    patches, grid = ours.images([path.read_bytes()])
    np.testing.assert_array_equal(grid, expected["image_grid_thw"])
    np.testing.assert_array_equal(patches, expected["pixel_values"])


def test_transparent_colour_of_a_png_is_white(ours, hf_images):
  # A palette or RGB file may name one colour that is clear, without an alpha channel.
  for mode, clear in (("P", 3), ("RGB", (1, 2, 3))):
    image = PIL.Image.fromarray(_noise(60, 84) // 64).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=clear)
    stored = PIL.Image.open(io.BytesIO(buffer.getvalue()))
    expected = hf_images([stored], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(ours.images([buffer.getvalue()])[0], expected)


def _png_that_claims(width, height):
  """A few hundred bytes whose header promises that many pixels."""
  buffer = io.BytesIO()
  PIL.Image.new("1", (8, 8)).save(buffer, "PNG")
  data = bytearray(buffer.getvalue())
  data[16:24] = struct.pack(">II", width, height)
  data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
  return bytes(data)


@pytest.mark.parametrize("side", [12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(ours, side, monkeypatch):
  # Pillow itself warns of the first and refuses the second.
  monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("read"))
  with pytest.raises(ValueError, match="more than 134217728 pixels"):
    ours.images([_png_that_claims(side, side)])


def test_dark_16_bit_values_are_dark_in_either_byte_order(ours):
  # By its values alone an array that stays below 256 would be 8-bit.
  black = ours.images([np.zeros((56, 56), np.uint8)])[0]
  for kind in ("<u2", ">u2"):
    np.testing.assert_array_equal(ours.images([np.full((56, 56), 200, kind)])[0], black)


def test_prepared_pixels_are_not_resized_again(ours):
  # The size that a size becomes may become another one in its turn.
  settings = dataclasses.replace(ours.image_settings, min_pixels=5000, max_pixels=5000)
  once = pixels.resize(_noise(50, 90), settings)
  again = pixels.smart_resize(*once.values.shape[:2], 28, 5000, 5000)
  assert again != once.values.shape[:2]
  assert pixels.resize(once, settings) is once


def test_16_bit_png_keeps_its_high_byte(ours):
  # Pillow's convert("RGB") of such a file may clip everything above 255 to white.
  grey = _noise(56, 84, 1)
  buffer = io.BytesIO()
  PIL.Image.fromarray(grey.astype(np.uint16) * 256 + 7).save(buffer, "PNG")
  assert PIL.Image.open(io.BytesIO(buffer.getvalue())).mode.startswith("I")
  np.testing.assert_array_equal(
    ours.images([buffer.getvalue()])[0], ours.images([PIL.Image.fromarray(grey)])[0]
  )


def test_exif_rotation_is_applied(ours):
  # Read as stored, the grid would be 4x6 for 6x4.
  upright = _noise(84, 56)
  stored = PIL.Image.fromarray(np.rot90(upright).copy())
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to show
  buffer = io.BytesIO()
  stored.save(buffer, "PNG", exif=exif)
  patches, grid = ours.images([buffer.getvalue()])
  assert grid.tolist() == [[1, 6, 4]]
  np.testing.assert_array_equal(patches, ours.images([upright])[0])


@pytest.mark.parametrize(
  "image,message",
  [
    (b"not an image", "not a readable image"),
    (np.zeros((4, 4, 2), np.uint8), "image array must be"),
    (np.full((30, 30), -1.0), "no known range"),
    (np.zeros((2, 900), np.uint8), "200 times"),
  ],
)
def test_bad_images_say_why(ours, image, message):
  with pytest.raises(ValueError, match=message):
    ours.images([image])


def test_truncated_file_is_refused(ours):
  # Pillow opens it lazily: without load() the failure comes later and elsewhere.
  buffer = io.BytesIO()
  PIL.Image.fromarray(_noise(60, 60)).save(buffer, "PNG")
  with pytest.raises(ValueError, match="not a readable image"):
    ours.images([buffer.getvalue()[:4000]])


CHATS = [
  [{"role": "user", "content": "Hi <there>"}],
  [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]},
  ],
  [
    {
      "role": "user",
      "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "image"}],
    },
    {"role": "assistant", "content": "two\nlines"},
    {"role": "user", "content": "and?"},
  ],
]


# Its blocks stand on lines of their own, indented, as in many published templates.
SPREAD_TEMPLATE = """{% for message in messages %}
  {% if loop.index0 > 1 %}
    {% break %}
  {% endif %}
[{{ message['role'] }}]
{{ message | tojson(indent=1) }}
{% endfor %}
"""


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, SPREAD_TEMPLATE])
@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("messages", CHATS)
def test_chat_and_tokens_equal_transformers(tmp_path, template, messages, generation):
  # Jinja with its default options leaves block newlines in and knows no break;
  # its own tojson turns "<there>" into "\\u003cthere\\u003e".
  from transformers import PreTrainedTokenizerFast

  folder = tiny.write_processor(tmp_path)
  (folder / "chat_template.jinja").write_text(template)
  ours = processor.Processor.from_folder(folder)
  theirs = PreTrainedTokenizerFast(
    tokenizer_file=str(folder / "tokenizer.json"), chat_template=template
  )
  expected = theirs.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=generation
  )
  assert ours.chat(messages, generation) == expected
  assert ours.tokens(expected) == theirs(expected)["input_ids"]


def test_encode_expands_images_and_pads_right(ours):
  # One <|image_pad|> left unexpanded, left padding, or a length counted by
  # "token != pad" (the third prompt ends in the pad id) would differ.
  chats = [
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
    [{"role": "user", "content": "b<|endoftext|>"}],
  ]
  images = [[_noise(112, 112)], [_noise(56, 84), _noise(56, 56)], []]
  batch = ours.encode(chats, images, add_generation_prompt=False)
  assert batch.image_grid_thw.tolist() == [[1, 8, 8], [1, 4, 6], [1, 4, 4]]
  assert batch.pixel_values.shape == (64 + 24 + 16, 1176)
  assert batch.input_ids.dtype == np.int32 and batch.input_ids.shape[1] % 8 == 0
  counts = (batch.input_ids == ours.image_token_id).sum(1)
  assert counts.tolist() == [16, 6 + 4, 0]
  for row, (chat, sizes) in enumerate(zip(chats, [[16], [6, 4], []], strict=True)):
    text = ours.chat(chat, False)
    for size in sizes:
      text = text.replace("<|image_pad|>", "<PLACE>" * size, 1)
    expected = ours.tokens(text.replace("<PLACE>", "<|image_pad|>"))
    assert batch.lengths[row] == len(expected)
    assert batch.input_ids[row, : len(expected)].tolist() == expected
    assert (batch.input_ids[row, len(expected) :] == ours.pad_id).all()


def test_image_token_inside_a_text_is_refused(ours):
  # Let through, it would take another image's features for its own.
  chat = [
    {
      "role": "user",
      "content": [{"type": "image"}, {"type": "text", "text": "x<|image_pad|>"}],
    }
  ]
  with pytest.raises(ValueError, match="has 2 <|image_pad|> for 1 images"):
    ours.encode([chat], [[_noise(56, 56)]])


def test_ids(ours):
  assert ours.pad_id == ours.token_id("<|endoftext|>")
  assert ours.token_id("<|image_pad|>") in ours.special_ids
  # Added without the special flag, and still a control token; <tool_call> is text.
  assert ours.token_id("<|fim_prefix|>") in ours.special_ids
  assert ours.token_id("<tool_call>") not in ours.special_ids
  assert ours.vocab_size == 320 + len(tiny.SPECIAL) + len(tiny.NOT_SPECIAL)
  ids = ours.tokens("What colour?<|im_end|><|endoftext|>")
  assert ours.decode(np.array(ids)) == "What colour?"
  with pytest.raises(ValueError, match="no token"):
    ours.token_id("<|nothing|>")


def test_settings_files(tmp_path):
  # `size` (new), min/max_pixels (old) and the whole-processor file say the same.
  new = tiny.write_processor(
    tmp_path / "new", size={"shortest_edge": 784, "longest_edge": 7840}
  )
  old = tiny.write_processor(tmp_path / "old", min_pixels=784, max_pixels=7840)
  whole = tiny.write_processor(tmp_path / "whole")
  settings = json.loads((new / "preprocessor_config.json").read_text())
  (whole / "preprocessor_config.json").unlink()
  (whole / "processor_config.json").write_text(
    json.dumps({"image_processor": settings})
  )
  expected = processor.Processor.from_folder(new).image_settings
  assert (expected.min_pixels, expected.max_pixels) == (784, 7840)
  for folder in (old, whole):
    assert processor.Processor.from_folder(folder).image_settings == expected


def test_not_a_checkpoint(tmp_path):
  with pytest.raises(FileNotFoundError, match="not a checkpoint: it has no tokenizer"):
    processor.Processor.from_folder(tmp_path)
  folder = tiny.write_processor(tmp_path / "f")
  (folder / "preprocessor_config.json").unlink()
  with pytest.raises(FileNotFoundError, match="preprocessor_config.json"):
    processor.Processor.from_folder(folder)
