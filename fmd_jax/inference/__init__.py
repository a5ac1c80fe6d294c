"""How one asks another model for text, or for embeddings.

A model is named by one string (see `specs`); `resolve` turns it into something
with `generate`, in this process or behind a sidecar: the caller cannot tell.
"""

from fmd_jax.inference.budget import BudgetedGenerator, BudgetError, Ledger
from fmd_jax.inference.protocol import (
  Embedder,
  Generator,
  InferenceError,
  Reply,
  Request,
  SpecError,
  draw_seed,
  generate_distinct,
  identity,
  own_seed,
  stream,
  stream_distinct,
)
from fmd_jax.inference.specs import (
  at_sidecar,
  checkpoint_folder,
  connect,
  is_remote,
  load_engine,
  needs_sidecar,
  resolve,
  resolve_embedder,
)

__all__ = [
  "at_sidecar",
  "checkpoint_folder",
  "connect",
  "BudgetedGenerator",
  "BudgetError",
  "Embedder",
  "Generator",
  "InferenceError",
  "Ledger",
  "Reply",
  "Request",
  "SpecError",
  "draw_seed",
  "generate_distinct",
  "identity",
  "is_remote",
  "load_engine",
  "needs_sidecar",
  "own_seed",
  "resolve",
  "resolve_embedder",
  "stream",
  "stream_distinct",
]
