"""The oracle engine: scenes out of images, verdicts in the grammar."""

import io
import random

import pytest
from PIL import Image

from fmd_jax import inference, verifier
from fmd_jax.inference import Request
from fmd_jax.types import Answer, ImageExample, Question
from fmd_jax.world import drawing, oracle, png, scenes


@pytest.fixture(scope="module")
def scene():
  return scenes.sample_scene(random.Random(3))


@pytest.fixture(scope="module")
def image(scene):
  return png.encode(drawing.render(scene), scene)


def test_its_verdicts_pass_the_verifiers_grammar(scene, image):
  # Wrong: replies that the parser refuses, so that every row is unscored.
  engine = inference.resolve("oracle://")
  asked = [
    ("Is there a circle?", "yes"),
    ("Is there a circle?", "no"),
    ("Colour circle is?", "yes"),
  ]
  example = ImageExample("i", image)
  items = [(example, Question("i", 0, 0, q), Answer(a, "m")) for q, a in asked]
  verdicts = verifier.judge(engine, items)
  for (question, answer), verdict in zip(asked, verdicts, strict=True):
    expected = oracle.judge(question, answer, scene)
    assert verdict.status == "ok"
    for key, entry in expected.items():
      assert getattr(verdict, key) == entry["ok"]
  assert verdicts[0].valid
  assert verdicts[0].correct != verdicts[1].correct
  assert not verdicts[2].valid


def test_what_it_cannot_judge_is_an_error_of_one_request(image, monkeypatch):
  # Wrong: an exception, which takes the whole batch with it.
  engine = inference.resolve("oracle://")
  plain = io.BytesIO()
  Image.new("RGB", (8, 8)).save(plain, "PNG")
  fields = {"question": "Is there a circle?", "answer": "yes"}
  requests = [
    Request([], (image,), fields),
    Request([], (plain.getvalue(),), fields),
    Request([], (b"cannot identify image",), fields),
    Request([], (), fields),
    Request([], (image,), {"question": "Is there a circle?"}),
    Request([], (image,), {**fields, "question": "boom"}),
  ]
  judge = engine._judge
  monkeypatch.setattr(
    engine, "_judge", lambda q, a, s: 1 / 0 if q == "boom" else judge(q, a, s)
  )
  errors = [reply.error for reply in engine.generate(requests)]
  assert errors[0] == ""
  for error, says in zip(
    errors[1:],
    ("no scene", "cannot identify image", "needs an image", "'answer'", "ZeroDivision"),
    strict=True,
  ):
    assert says in error
