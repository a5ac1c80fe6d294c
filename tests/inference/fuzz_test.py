"""Arbitrary input to the verdict parser, to messages and to the image path."""

import io
import json

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from PIL import Image

from fmd_jax.inference import Reply, judging, wire
from fmd_jax.inference import sidecar_pb2 as pb
from fmd_jax.prompts import judge as template
from fmd_jax.sidecar import images
from tests.sidecar.abuse import bomb

SLOW = settings(max_examples=150, deadline=None)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
  LEAVES,
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from([*template.KEYS, "ok", "why", "x"]), inner, max_size=5
    )
  ),
  max_leaves=12,
)
GOOD = {key: {"why": "so", "ok": True} for key in template.KEYS}


def check(text: str) -> None:
  """Either a ValueError, or a verdict of the whole grammar; no other way out."""
  try:
    parsed = judging.parse(text)
  except ValueError:
    return
  assert tuple(parsed) == template.KEYS
  for ok, why in parsed.values():
    assert isinstance(ok, bool)
    assert isinstance(why, str)
  # It is what stands last: whatever came before has no say in it.
  assert judging.parse(f'{{"correct": 1}} <think>{text}</think>{text}') == parsed


@SLOW
@given(st.text(alphabet='{}[]":,<>/\\`thinkokwhy \n01truefalse', max_size=80))
@example("[" * 100_000)
@example('{"a":' * 5_000)
@example("</think>" * 1000)
def test_any_text(text):
  check(text)


@SLOW
@given(TREES, st.text(max_size=10), st.text(max_size=10))
def test_any_json(tree, before, after):
  check(f"{before}{json.dumps(tree)}{after}")


@SLOW
@given(st.data())
def test_a_verdict_with_one_thing_changed(data):
  # Wrong: a missing criterion taken for true, 1 for true, a key twice.
  key = data.draw(st.sampled_from(template.KEYS))
  value = data.draw(TREES)
  text = json.dumps(GOOD | {key: value})
  try:
    parsed = judging.parse(text)
  except ValueError:
    return
  assert isinstance(value, dict)
  assert set(value) == {"ok", "why"}
  assert parsed[key] == (value["ok"], value["why"])


@SLOW
@given(st.text(max_size=20))
@example("\ud800")
def test_a_rationale_can_be_stored(why):
  # JSON spells half a surrogate pair; Parquet and gRPC take none.
  entry = {**GOOD, "correct": {"why": why, "ok": False}}
  request = judging.Request([])
  verdict, _ = judging._verdict(Reply(json.dumps(entry)), request)
  verdict.rationale.encode()
  wire.reply_to_proto(0, Reply(why)).SerializeToString()


@SLOW
@given(TREES)
def test_any_messages(tree):
  message = pb.Request(messages_json=json.dumps(tree), max_tokens=1)
  try:
    request = wire.request_from_proto(message, {})
  except ValueError:
    return
  # What gets through can be read like any chat.
  for entry in request.messages:
    assert isinstance(entry["role"], str)
    assert isinstance(entry["content"], str | list)


def _png() -> bytes:
  buffer = io.BytesIO()
  Image.effect_noise((20, 20), 50).convert("RGB").save(buffer, "PNG")
  return buffer.getvalue()


@SLOW
@given(
  st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]),
  st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=4),
  st.integers(0, 10_000),
)
def test_any_picture(kind, changes, keep):
  # Wrong: an exception that is no ValueError ends the call as UNKNOWN.
  buffer = io.BytesIO()
  Image.effect_noise((20, 20), 50).convert("RGB").save(buffer, kind)
  data = bytearray(buffer.getvalue())
  for place, new in changes:
    place %= len(data)
    data[place : place + len(new)] = new
  try:
    images.check(bytes(data[: max(keep, 1)]))
  except ValueError:
    return


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_001, 10_000), (2**31 - 1, 9)])
def test_bombs_are_refused_before_they_are_decoded(size):
  with pytest.raises(ValueError, match="pixels|not an image"):
    images.check(bomb(*size))
  images.check(_png())
