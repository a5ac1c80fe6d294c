"""Neighbours, centres, re-assignment; the clustering itself is in launch_test."""

import numpy as np
import pytest

from fmd_jax.taxonomy import topics


def unit(n, width=8, seed=0):
  vectors = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rows", [1024, 7])
def test_neighbours_equal_a_full_sort(monkeypatch, rows):
  monkeypatch.setattr(topics, "_ROWS", rows)
  vectors = unit(50)
  vectors[10] = vectors[3]  # twins: each is still its own first neighbour
  index, distance = topics.neighbours(vectors, 6)
  full = 1 - vectors @ vectors.T
  assert index[:, 0].tolist() == list(range(50))
  np.testing.assert_allclose(distance, np.sort(full, 1)[:, :6].clip(min=0), atol=1e-6)
  assert (distance >= 0).all() and 10 in index[3]


def test_outliers_go_to_the_nearest_centre_which_they_do_not_move():
  vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.3, 0.9], [0.9, -0.4]], np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  found = np.array([0, 0, 1, -1, -1])
  assert topics._reassigned(found, vectors).tolist() == [0, 0, 1, 1, 0]
  centres = topics.centres(vectors, found)
  np.testing.assert_allclose(centres[1], [0, 1], atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)


def test_a_handful_of_primitives_are_topics_by_themselves():
  found = topics.find(["a", "b"], unit(2), seed=0, min_topic_size=0, stability_seeds=3)
  assert found.topic.tolist() == [0, 1] and found.keywords == [["a"], ["b"]]
  assert found.outliers == 0 and found.agreement == []
