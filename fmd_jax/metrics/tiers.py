"""How sure a failure is: tiers, and rates that count those of a tier or higher only."""

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from fmd_jax.metrics.bootstrap import Estimate, cluster_sums, ratio_estimates
from fmd_jax.metrics.rates import flags

# Each holds all those before it.
TIERS = {
  1: "missed once",
  2: "missed again",
  3: "missed in other words",
  4: "a second judge agrees",
  5: "needs the image, unambiguous",
}


def draws(rows: pd.DataFrame, seed: int) -> Float[np.ndarray, "N"]:
  """A number in [0, 1) for each row, the same for all rows of an (image, question).

  A sample of all below some threshold is drawn by question, holds each smaller one, and
  is the same wherever it is computed. Rows without a question are drawn by place.

  Args:
    rows: [N] with image_id and question, and place where a question may be "".
    seed: of the draws.
  """
  places = rows["place"] if "place" in rows else [0] * len(rows)
  keys = zip(rows["image_id"], rows["question"], places)
  return np.array([_draw(seed, i, q or f"\n{place}") for i, q, place in keys], float)


def tier_of(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
  """`tier` (float, NaN where it was not asked again) and `open` of each row.

  Args:
    rows: with image_id and question.
    table: of `records.read_confirmed`.
  """
  key = ["image_id", "question"]
  known = table.set_index(key)[["tier", "open"]].astype({"tier": float})
  found = known.reindex(pd.MultiIndex.from_frame(rows[key]))
  return found.set_index(rows.index)


def at_tier(
  rows: pd.DataFrame,
  table: pd.DataFrame,
  statement: Mapping,
  name: str,
  tier: int,
) -> pd.DataFrame:
  """The rows with only the failures that reached a tier left as failures.

  A failure that fell short counts as a valid question that was not failed. One of which
  nobody knows (its check is unscored, or it was not asked again) is unscored. Of a run
  whose failures were sampled, rows of other outcomes are sampled alike, so that shares
  stay what they are.

  Args:
    rows: of one file of `evaluations/`.
    table: of `records.read_confirmed`.
    statement: of the same.
    name: of the file, as "grpo_heldout".
    tier: of `TIERS`.
  """
  share = statement["thresholds"].get(name, 0.0)
  if share < 1:
    rows = rows[draws(rows, statement["seed"]) <= share]
  failed = flags(rows)["failure"]
  found = tier_of(rows, table)
  reached = (found["tier"] >= tier).to_numpy(bool)
  unknown = (found["tier"].isna() | found["open"].eq(True)).to_numpy(bool)
  rows = rows.copy()
  rows.loc[failed & ~reached & ~unknown, "correct"] = True
  rows.loc[failed & ~reached & unknown, "status"] = "unscored"
  return rows


def survivors(table: pd.DataFrame, seed: int = 0) -> list[Estimate]:
  """How many of the failures that were asked again reach each tier, in order.

  Those whose check on the way is unscored are in neither number; intervals are
  clustered by image.

  Args:
    table: of `records.read_confirmed`.
    seed: of the bootstrap.
  """
  out = []
  for tier in TIERS:
    known = table[(table["tier"] >= tier) | ~table["open"].astype(bool)]
    reached = (known["tier"] >= tier).to_numpy()
    _, sums = cluster_sums(known["image_id"], [reached, np.ones(len(known))])
    out += ratio_estimates(sums[:, :1], sums[:, 1:], seed=seed)
  return out


def _draw(seed: int, image_id: str, question: str) -> float:
  text = f"{seed}\n{image_id}\n{question}".encode()
  return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48
