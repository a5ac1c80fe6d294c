"""Vendi score and prefix entropy against closed forms and the long way round."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmd_jax import metrics
from fmd_jax.metrics import diversity


def brute_vendi(vectors):
  """Eigenvalues of the whole N x N cosine kernel."""
  n = len(vectors)
  kernel = np.zeros((n, n))
  for i in range(n):
    for j in range(n):
      a, b = vectors[i].astype(float), vectors[j].astype(float)
      kernel[i, j] = a @ b / math.sqrt((a @ a) * (b @ b))
  values = np.linalg.eigvalsh(kernel / n)
  return math.exp(-sum(v * math.log(v) for v in values if v > 1e-12))


@pytest.mark.parametrize("n", [1, 7, 16, 17, 60])
def test_vendi_equals_the_kernel(n, monkeypatch):
  """Both forms (N <= E and N > E), rows of any length; without normalisation or
  with the trace not 1 the values leave [1, min(N, E)].
  """
  vectors = np.random.default_rng(n).normal(size=(n, 16)).astype(np.float32) + 0.4
  want, sizes, eigvalsh = brute_vendi(vectors), [], np.linalg.eigvalsh

  def counted(matrix):
    sizes.append(len(matrix))
    return eigvalsh(matrix)

  monkeypatch.setattr(np.linalg, "eigvalsh", counted)
  got = metrics.vendi(vectors)
  assert sizes == [min(n, 16)]  # the smaller form: N x N would not fit for a run
  np.testing.assert_allclose(got, want, rtol=1e-9)
  assert 1 - 1e-9 <= got <= min(n, 16) + 1e-9


def test_vendi_closed_forms():
  """N alike: 1. N orthogonal: N. Shares .75, .25: exp(.5623) = 1.7548; q = 2, the
  other common order, would give 1.6.
  """
  np.testing.assert_allclose(metrics.vendi(np.ones((50, 8))), 1.0, rtol=1e-6)
  np.testing.assert_allclose(metrics.vendi(5 * np.eye(6)), 6.0, rtol=1e-9)
  np.testing.assert_allclose(metrics.vendi(np.tile(np.eye(6), (9, 1))), 6.0, rtol=1e-9)
  shares = np.eye(2)[[0, 0, 0, 1]]
  np.testing.assert_allclose(metrics.vendi(shares), 1.7547654, rtol=1e-6)
  assert metrics.vendi(np.zeros((0, 8))) == 0.0


def test_vendi_in_chunks(monkeypatch):
  """A last, smaller chunk left out or counted twice shows."""
  vectors = np.random.default_rng(0).normal(size=(50, 4))
  want = metrics.vendi(vectors), metrics.mean_cosine(vectors)
  monkeypatch.setattr(diversity, "_CHUNK", 16)
  got = metrics.vendi(vectors), metrics.mean_cosine(vectors)
  np.testing.assert_allclose(got, want, rtol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10**6))
def test_vendi_properties(n, width, seed):
  """Order and scale do not matter; a doubled set is as diverse as the set."""
  generator = np.random.default_rng(seed)
  vectors = generator.normal(size=(n, width))
  score = metrics.vendi(vectors)
  moved = generator.permutation(vectors) * generator.uniform(0.5, 2, (n, 1))
  np.testing.assert_allclose(metrics.vendi(moved), score, rtol=1e-8)
  doubled = np.concatenate([vectors, vectors])
  np.testing.assert_allclose(metrics.vendi(doubled), score, rtol=1e-8)


def test_zero_embedding_is_an_error():
  """0/0 would make the whole score NaN."""
  with pytest.raises(ValueError, match="embedding is 0"):
    metrics.vendi(np.array([[0.0, 0.0], [1.0, 0.0]]))


def test_mean_cosine():
  """Over pairs of different rows; with the diagonal it would be 2/3 and 1/2."""
  rows = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
  np.testing.assert_allclose(metrics.mean_cosine(rows), 1 / 3)
  assert metrics.mean_cosine(rows[:1]) is None


def test_prefix_entropy_golden():
  """Prefixes 2, 1, 1 of 4: H = 1.039721 nats (1.5 bits), LD = H / ln 4 = .75.

  In bits over ln 4: 1.08; over ln K: .946; the first word only would give K = 2.
  """
  questions = ["What is a?", "what IS b?", "How many c?", "What are d?"]
  got = metrics.prefix_entropy(questions)
  np.testing.assert_allclose(got["entropy"], 1.0397208)
  np.testing.assert_allclose(got["ld"], 0.75)
  np.testing.assert_allclose(got["exp_entropy"], 2.8284271)
  np.testing.assert_allclose(got["evenness"], 0.9463946)
  assert (got["distinct"], got["n"]) == (3, 4)


def test_prefix_entropy_edges():
  """One template: exactly 0 (not -0 or 0/0); all different: 1; one or no question."""
  same = metrics.prefix_entropy(["What is it?"] * 5)
  assert str(same["ld"]) == "0.0"
  assert (same["entropy"], same["exp_entropy"], same["evenness"]) == (0.0, 1.0, 0.0)
  assert metrics.prefix_entropy(["a b", "c d", "e f"])["ld"] == pytest.approx(1.0)
  assert metrics.prefix_entropy(["a b"])["ld"] is None
  nothing = metrics.prefix_entropy([])
  assert (nothing["ld"], nothing["distinct"], nothing["exp_entropy"]) == (None, 0, 0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60))
def test_prefix_entropy_equals_a_loop(letters):
  questions = [f"{letter} is this" for letter in letters]
  entropy = 0.0
  for letter in set(letters):
    share = sum(x == letter for x in letters) / len(letters)
    entropy -= share * math.log(share)
  got = metrics.prefix_entropy(questions)
  np.testing.assert_allclose(got["entropy"], entropy, atol=1e-12)
  np.testing.assert_allclose(got["ld"], entropy / math.log(len(letters)), atol=1e-12)


def test_rarefied():
  """Drawn without replacement, the mean over draws; at full n the measure itself."""
  seen = []

  def measure(indices):
    seen.append(indices)
    return float(indices.sum())

  got = metrics.rarefied(measure, 10, 8, draws=3, seed=1)
  assert [len(set(i)) for i in seen] == [8, 8, 8]
  assert got == np.mean([i.sum() for i in seen])
  assert len({tuple(i) for i in seen}) > 1
  assert got == metrics.rarefied(measure, 10, 8, draws=3, seed=1)
  assert metrics.rarefied(measure, 10, 10) == 45.0
  assert metrics.rarefied(measure, 10, 11) is None
  assert metrics.rarefied(measure, 0, 0) is None


def test_rarefaction_makes_runs_of_different_length_comparable():
  """The same source, 2000 and 20 000 questions: LD .42 and .33 as asked (it falls
  with N), equal at a common N.
  """
  generator = np.random.default_rng(0)
  words = np.array([f"w{i}" for i in range(200)])
  odds = 1 / np.arange(1, 201) ** 1.3
  lds, rarefied_lds = [], []
  for n in (2000, 20000):
    questions = [f"{w} is" for w in generator.choice(words, n, p=odds / odds.sum())]
    lds.append(metrics.prefix_entropy(questions)["ld"])

    def ld(indices, questions=questions):
      return metrics.prefix_entropy([questions[i] for i in indices])["ld"]

    rarefied_lds.append(metrics.rarefied(ld, n, 1000))
  assert lds[0] - lds[1] > 0.07
  assert abs(rarefied_lds[0] - rarefied_lds[1]) < 0.02
