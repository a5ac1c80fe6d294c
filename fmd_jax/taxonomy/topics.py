"""Topics among primitives: BERTopic on given embeddings, the same on every run."""

import logging
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

INSTALL = "pip install bertopic==0.17.4"
OUTLIER = -1
_COMPONENTS = 5
_NEIGHBOURS = 15
_KEYWORDS = 10
_ROWS = 1024  # compared at a time
FEWEST = 30  # primitives; with fewer each is a topic of its own


class Topics(NamedTuple):
  """Topics of P primitives, 0..T-1, largest first.

  Attributes:
    found: [P] the clustering's own topics; OUTLIER for those it left out.
    topic: [P] with each outlier in the topic of the most similar centroid.
    keywords: of each topic, by c-TF-IDF.
    min_topic_size: that was used.
    agreement: adjusted Rand index of `topic` between each pair of seeds.
  """

  found: Int[np.ndarray, "P"]
  topic: Int[np.ndarray, "P"]
  keywords: list[list[str]]
  min_topic_size: int
  agreement: list[float]

  @property
  def outliers(self) -> float:
    """The share of primitives that the clustering left out."""
    return float((self.found == OUTLIER).mean())


def find(
  phrases: Sequence[str],
  vectors: Float[np.ndarray, "P E"],
  *,
  seed: int,
  min_topic_size: int,
  stability_seeds: int,
) -> Topics:
  """Clusters primitives: UMAP to 5 dimensions, then HDBSCAN, within BERTopic.

  Args:
    phrases: P distinct texts.
    vectors: [P, E] their embeddings, unit length.
    seed: of UMAP. The same seed and vectors give the same topics.
    min_topic_size: fewest primitives of a topic; 0 takes P / 70, from 3 to 15.
    stability_seeds: how many clusterings are compared, this one included.

  Raises:
    ImportError: BERTopic is missing; says what to type.
    ValueError: so many primitives have no topic in common.
  """
  size = min_topic_size or max(3, min(15, len(phrases) // 70))
  if len(phrases) < FEWEST:
    alone = np.arange(len(phrases))
    return Topics(alone, alone, [[phrase] for phrase in phrases], size, [])
  try:
    from bertopic import BERTopic
  except ImportError as error:
    raise ImportError(f"topics need BERTopic: {INSTALL}") from error
  logging.getLogger("BERTopic").setLevel(logging.WARNING)
  # With many more neighbours than a topic has members, topics run into each other.
  near = neighbours(vectors, min(max(10, 2 * size), _NEIGHBOURS, len(phrases) - 1))
  model = BERTopic(
    embedding_model=None,
    umap_model=_umap(seed, near),
    hdbscan_model=_hdbscan(size),
    vectorizer_model=_vectorizer(),
    top_n_words=_KEYWORDS,
    calculate_probabilities=False,
  )
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    found, _ = model.fit_transform(list(phrases), embeddings=vectors)
    found = np.asarray(found)
    if (found == OUTLIER).all():
      raise ValueError(
        f"no {size} of the {len(phrases)} primitives have a topic in common: lower "
        "taxonomy.min_topic_size or ask more questions"
      )
    topic = _reassigned(found, vectors)
    model.update_topics(
      list(phrases), topics=topic.tolist(), vectorizer_model=_vectorizer()
    )
    count = topic.max() + 1
    keywords = [[w for w, _ in model.get_topic(t) if w] for t in range(count)]
    agreement = _agreement(topic, vectors, near, size, seed, stability_seeds)
  return Topics(found, topic, keywords, size, agreement)


def neighbours(
  vectors: Float[np.ndarray, "P E"], k: int
) -> tuple[Int[np.ndarray, "P K"], Float[np.ndarray, "P K"]]:
  """The k nearest rows of each row, itself first, and their cosine distances.

  Exact, so that only UMAP's layout depends on a seed; one search serves all seeds.
  """
  rows = np.arange(len(vectors))
  index = np.empty((len(vectors), k), np.int32)
  distance = np.empty((len(vectors), k), np.float32)
  for start in range(0, len(vectors), _ROWS):
    own = rows[start : start + _ROWS]
    far = 1 - vectors[own] @ vectors.T
    # Rounding must not put another row before the row itself.
    far[np.arange(len(own)), own] = -1
    near = np.argpartition(far, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(far, near, 1), axis=1, kind="stable")
    index[own] = np.take_along_axis(near, order, 1)
    distance[own] = np.take_along_axis(far, index[own], 1).clip(min=0)
  return index, distance


def _umap(seed: int, near: tuple[np.ndarray, np.ndarray]):
  from umap import UMAP

  # One job: with several, UMAP ignores its seed.
  return UMAP(
    n_neighbors=near[0].shape[1],
    n_components=_COMPONENTS,
    min_dist=0.0,
    metric="cosine",
    random_state=seed,
    n_jobs=1,
    precomputed_knn=near,
  )


def _hdbscan(size: int):
  from hdbscan import HDBSCAN

  # Fewer samples than the size leave fewer outliers. Leaves: the finest topics, since
  # labels that say the same are merged later and one topic of two skills never splits.
  return HDBSCAN(
    min_cluster_size=size,
    min_samples=min(2, size),
    metric="euclidean",
    cluster_selection_method="leaf",
    core_dist_n_jobs=1,
  )


def _vectorizer():
  from sklearn.feature_extraction.text import CountVectorizer

  # No stop words and one-letter words too: a vocabulary is never empty.
  return CountVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2))


def _reassigned(
  found: Int[np.ndarray, "P"], vectors: Float[np.ndarray, "P E"]
) -> Int[np.ndarray, "P"]:
  out = found.copy()
  lost = np.flatnonzero(found == OUTLIER)
  centroids = centres(vectors, found)
  for start in range(0, len(lost), _ROWS):
    part = lost[start : start + _ROWS]
    out[part] = (vectors[part] @ centroids.T).argmax(1)
  return out


def centres(
  vectors: Float[np.ndarray, "P E"], topic: Int[np.ndarray, "P"]
) -> Float[np.ndarray, "T E"]:
  """Unit vectors in the middle of each topic; outliers have no part in them."""
  kept = topic != OUTLIER
  sums = np.zeros((topic.max() + 1, vectors.shape[1]), np.float32)
  np.add.at(sums, topic[kept], vectors[kept])
  return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _agreement(topic, vectors, near, size: int, seed: int, seeds: int) -> list[float]:
  from sklearn.metrics import adjusted_rand_score

  labels = [topic]
  for other in range(seed + 1, seed + seeds):
    low = _umap(other, near).fit_transform(vectors)
    found = _hdbscan(size).fit_predict(low)
    if (found != OUTLIER).any():
      labels.append(_reassigned(found, vectors))
  return [
    float(adjusted_rand_score(labels[i], labels[j]))
    for i in range(len(labels))
    for j in range(i)
  ]
