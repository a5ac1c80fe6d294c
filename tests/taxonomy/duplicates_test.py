"""Near-duplicates: the blocked search equals a plain loop."""

import numpy as np
import pytest

from fmd_jax.taxonomy import duplicates


def plain_loop(vectors, threshold):
  kept, parent = [], []
  for i, vector in enumerate(vectors):
    cosines = [float(vector @ vectors[j]) for j in kept]
    best = int(np.argmax(cosines)) if cosines else -1
    if kept and cosines[best] >= threshold:
      parent.append(kept[best])
    else:
      kept.append(i)
      parent.append(i)
  return parent


@pytest.mark.parametrize(("rows", "columns"), [(1024, 8192), (7, 5), (1, 1)])
def test_equals_a_plain_loop(monkeypatch, rows, columns):
  # Wrong: a block that doesn't see what it has added itself, a chunk that forgets the
  # best of the one before, the first match instead of the best.
  monkeypatch.setattr(duplicates, "_ROWS", rows)
  monkeypatch.setattr(duplicates, "_COLUMNS", columns)
  generator = np.random.default_rng(0)
  centres = generator.normal(size=(20, 6))
  vectors = centres[generator.integers(0, 20, 150)]
  vectors = vectors + 0.25 * generator.normal(size=vectors.shape)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  vectors = vectors.astype(np.float32)
  done = []
  parent, cosine = duplicates.representatives(vectors, 0.9, done.append)
  assert parent.tolist() == plain_loop(vectors, 0.9)
  assert 20 < len(set(parent.tolist())) < 140
  own = np.einsum("ne,ne->n", vectors, vectors[parent])
  np.testing.assert_allclose(cosine, own, atol=1e-6)
  assert sum(done) == 150


def test_order_is_priority():
  vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
  parent, _ = duplicates.representatives(vectors, 0.7)
  assert parent.tolist() == [0, 0, 2]
  parent, _ = duplicates.representatives(vectors[::-1].copy(), 0.5)
  assert parent.tolist() == [0, 0, 2]


def test_nothing_is_a_duplicate_above_one_and_no_rows_are_fine():
  vectors = np.ones((3, 1), np.float32)
  assert duplicates.representatives(vectors, 1.1)[0].tolist() == [0, 1, 2]
  assert duplicates.representatives(vectors[:0], 0.9)[0].tolist() == []


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("  Counting  People. ", "counting people"),
    ("Up–down, left-right", "up–down left-right"),
    ("reading 'STOP' signs", "reading stop signs"),
    ("ÉTAT", "état"),
    ("Basic colour naming skills.", "colour naming"),
    ("the ability to read signs in the picture", "read signs"),
    ("Visual skill", "skill"),
    ("skills", "skills"),
    ("visual", "visual"),
    ("task switching", "task switching"),
    ("a", "a"),
    ("theory of mind", "theory of mind"),
  ],
)
def test_normalise(text, expected):
  assert duplicates.normalise(text) == expected
