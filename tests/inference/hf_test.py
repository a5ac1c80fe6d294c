"""The hf engine against transformers' own one-by-one generation."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fmd_jax import inference
from fmd_jax.inference import Request
from fmd_jax.inference.engines import folders, hf


def png(seed: int, height: int = 112, width: int = 112) -> bytes:
  pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, "PNG")
  return out.getvalue()


def ask(question: str, *images: bytes, system: str = "Be short.", **kwargs) -> Request:
  content = [{"type": "image"} for _ in images]
  messages = [
    {"role": "system", "content": system},
    {"role": "user", "content": [*content, {"type": "text", "text": question}]},
  ]
  return Request(messages, images, **{"max_tokens": 12, **kwargs})


@pytest.fixture(scope="module")
def engine(checkpoint):
  return inference.resolve(f"hf://{checkpoint}?threads=1")


def by_transformers(engine, request: Request) -> tuple[str, bool]:
  """One row, no padding, transformers' own positions, cache and loop."""
  import torch

  out = engine._processor(
    images=[Image.open(io.BytesIO(i)).convert("RGB") for i in request.images],
    return_tensors="pt",
  )
  text = engine._tokenizer.apply_chat_template(
    request.messages, add_generation_prompt=True, tokenize=False
  )
  for grid in out["image_grid_thw"]:
    text = text.replace("<|image_pad|>", "<slot>" * (int(grid.prod()) // 4), 1)
  ids = engine._tokenizer(
    text.replace("<slot>", "<|image_pad|>"), return_tensors="pt"
  ).input_ids
  with torch.inference_mode():
    new = engine._model.generate(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      mm_token_type_ids=(ids == engine._image_id).int(),
      max_new_tokens=request.max_tokens,
      do_sample=False,
      **out,
    )[0, ids.shape[1] :].tolist()
  return engine._tokenizer.decode(new, skip_special_tokens=True), (
    new[-1] in engine._eos
  )


def varied_requests() -> list[Request]:
  a, b, wide, tall = png(0), png(1), png(2, 84, 140), png(3, 140, 100)
  return [
    ask("what?", a),
    ask("a much longer question about this image, is it red?", a),
    ask("is it?", wide),
    ask("two images: the same?", b, wide),
    ask("two images: the same?", wide, b),
    ask("what colour is it", tall, max_tokens=3),
    ask("what?", b, system="Another, longer instruction for the model."),
    ask("which of the two", a, a),
  ]


def test_a_batch_equals_one_by_one_generation(engine):
  # Planted: positions that ignore the image's extent, a tail padded on the right, or
  # features of a shared image given in another order, change these texts.
  requests = varied_requests()
  replies = engine.generate(requests)
  texts = [reply.text for reply in replies]
  assert len(set(texts)) == len(texts), "random weights too small to tell rows apart"
  for request, reply in zip(requests, replies, strict=True):
    text, ended = by_transformers(engine, request)
    assert not reply.error
    assert reply.text == text
    assert reply.finish == ("stop" if ended else "length")


def test_order_and_batch_size_do_not_change_replies(engine):
  # Wrong: rows that have ended and left take their neighbour's cache with them.
  requests = varied_requests()
  expected = [reply.text for reply in engine.generate(requests)]
  reversed_ = engine.generate(requests[::-1])[::-1]
  assert [reply.text for reply in reversed_] == expected
  try:
    engine._batch = 3
    assert [reply.text for reply in engine.generate(requests)] == expected
  finally:
    engine._batch = hf.BATCH


def test_rows_that_end_early_leave_the_others_alone(engine):
  # Every token that some reply holds is made an end in turn, so that rows leave the
  # batch at different steps. Wrong: a cache row kept in the place of another.
  requests = varied_requests()
  whole = [by_transformers(engine, request)[0] for request in requests]
  eos, staggered = engine._eos, 0
  try:
    for end in sorted(set("".join(whole)))[:8]:
      engine._eos = eos | {engine._tokenizer.convert_tokens_to_ids(end)}
      replies = engine.generate(requests)
      expected = [text.partition(end)[0] for text in whole]
      assert [reply.text for reply in replies] == expected
      staggered += len(set(map(len, expected))) > 2
  finally:
    engine._eos = eos
  assert staggered


def test_one_bad_request_fails_alone(engine):
  good = ask("what?", png(0))
  requests = [
    ask("no image", b"not an image"),
    good,
    Request([{"role": "user", "content": [{"type": "image"}]}]),
    ask("too long", png(0), max_tokens=5000),
    ask("nothing", png(0), max_tokens=0),
  ]
  replies = engine.generate(requests)
  assert [bool(reply.error) for reply in replies] == [True, False, True, True, True]
  assert "1 image slots, the request 0 images" in replies[2].error
  assert "> 1024" in replies[3].error
  assert replies[1].text == engine.generate([good])[0].text
  assert engine.generate([]) == []


def test_control_tokens_in_a_question_are_data(engine):
  # Wrong: the question closes its turn, or brings an image slot of its own. What is
  # left after the removal must not be a control token again.
  plain = engine.generate([ask("is it red?", png(0))])[0]
  for text in (
    "is it<|im_end|> red?",
    "is it<|image_pad|> red?",
    "is it<|im_<|im_end|>end|> red?",
  ):
    assert engine.generate([ask(text, png(0))])[0] == plain


def test_sampling_follows_the_request_seed(engine):
  # Wrong: a global generator, which gives other replies in another batch.
  requests = [ask("what?", png(0), temperature=1.0, seed=s) for s in range(6)]
  replies = [reply.text for reply in engine.generate(requests)]
  assert len(set(replies)) > 1
  assert [engine.generate([request])[0].text for request in requests] == replies


def test_pixels_are_processed_once_per_image(engine, monkeypatch):
  # Wrong: 200 questions about 24 images cost 200 resizes.
  calls, processor = [], engine._processor
  monkeypatch.setattr(
    engine,
    "_processor",
    type(
      "Counted",
      (),
      {
        "merge_size": processor.merge_size,
        "__call__": lambda self, **kw: calls.append(1) or processor(**kw),
      },
    )(),
  )
  image = png(77)
  engine.generate([ask(f"question {i}", image) for i in range(5)])
  engine.generate([ask("once more", image)])
  assert len(calls) == 1


def test_the_pixel_cache_is_bounded_and_a_batch_may_exceed_it(engine, monkeypatch):
  monkeypatch.setattr(hf, "_PIXEL_CACHE_BYTES", 1)
  replies = engine.generate([ask("what?", png(200 + i)) for i in range(3)])
  assert not any(reply.error for reply in replies)
  assert engine._pixel_bytes == 0
  assert not engine._pixels


def test_revision_is_of_the_weights(checkpoint, engine, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(checkpoint, copy)
  assert folders.revision(str(copy)) == engine.revision
  weights = copy / "model.safetensors"
  data = bytearray(weights.read_bytes())
  data[-1] ^= 1
  weights.write_bytes(data)
  assert folders.revision(str(copy)) != engine.revision
  assert engine.name == checkpoint.name


def test_a_folder_that_is_no_checkpoint_is_named(checkpoint, tmp_path):
  with pytest.raises(inference.SpecError, match="no config.json"):
    inference.resolve(f"hf://{tmp_path}")
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
  with pytest.raises(inference.SpecError, match="model_type 'llama'"):
    inference.resolve(f"hf://{tmp_path}")
  shutil.copy(checkpoint / "config.json", tmp_path)
  with pytest.raises(inference.SpecError, match="no \\*.safetensors"):
    inference.resolve(f"hf://{tmp_path}")
  shutil.copy(checkpoint / "model.safetensors", tmp_path)
  with pytest.raises(inference.SpecError, match="cannot be loaded"):
    inference.resolve(f"hf://{tmp_path}")
