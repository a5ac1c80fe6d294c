"""One set of questions, asked of two models equally often: what changed, by group.

Fresh answers are compared with fresh answers. The answers that a set was chosen by are
no part of this: of questions that were chosen because they failed once, fewer fail the
next time, whoever is asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fmd_jax.metrics.bootstrap import (
  LEVEL,
  RESAMPLES,
  cluster_sums,
  percentiles,
  resample_sums,
)
from fmd_jax.metrics.comparison import benjamini_hochberg

ALPHA = 0.05
FLIPS = 9999
FAILS = 0.5  # of the answers to a question, or of a group
MIN_QUESTIONS = 5  # of a group, to be tested
ALL = "all questions"
_CHUNK = 1_000_000  # signs held at a time


def changes(
  before: Float[np.ndarray, "N"],
  after: Float[np.ndarray, "N"],
  images: Sequence[str],
  groups: Mapping[str, Bool[np.ndarray, "N"]],
  *,
  flips: int = FLIPS,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """What changed between two models, over all questions and group by group.

  Args:
    before: the share of the first model's answers to each of N questions that is wrong.
    after: the same of the second model, asked equally often.
    images: of the questions.
    groups: name -> which questions are in it.
    flips: of the test.
    resamples: of the bootstrap, clustered by image.
    seed: of both.

  Returns:
    One dict for all questions (`ALL`), then one a group: name, n, images, before, after
    (mean shares), difference, low, high (None where every image agrees), fixed,
    still_failing, newly_failing, passing (questions, by whether at least half of the
    answers are wrong), p of `sign_flips`, q (p adjusted over all of them; None of a
    group of fewer than `MIN_QUESTIONS`), verdict. Of a change with q up to .05 it is
    "newly failing", "fixed" (less than half of the answers are wrong now) or
    "improved"; else "still failing" (half or more are wrong) or "no change".
  """
  masks = {ALL: np.ones(len(before), bool), **groups}
  columns = np.stack(list(masks.values()), 1).astype(float)
  delta = (after - before)[:, None] * columns
  _, sums = cluster_sums(images, [*delta.T, *columns.T])
  width = len(masks)
  p = sign_flips(sums[:, :width], flips, seed)
  drawn = resample_sums(sums, resamples, seed)
  out = []
  for k, (name, mask) in enumerate(masks.items()):
    n = int(mask.sum())
    if not n:
      continue
    failed, fails = before[mask] >= FAILS, after[mask] >= FAILS
    with np.errstate(divide="ignore", invalid="ignore"):
      low, high = percentiles(drawn[:, k] / drawn[:, width + k], LEVEL)
    spread = low is not None and low != high
    out.append(
      {
        "name": name,
        "n": n,
        "images": int((sums[:, width + k] > 0).sum()),
        "before": float(before[mask].mean()),
        "after": float(after[mask].mean()),
        "difference": float((after - before)[mask].mean()),
        "low": low if spread else None,
        "high": high if spread else None,
        "fixed": int((failed & ~fails).sum()),
        "still_failing": int((failed & fails).sum()),
        "newly_failing": int((~failed & fails).sum()),
        "passing": int((~failed & ~fails).sum()),
        "p": float(p[k]),
        "q": None,
      }
    )
  tested = [row for row in out if row["n"] >= MIN_QUESTIONS]
  adjusted = benjamini_hochberg(np.array([row["p"] for row in tested]))
  for row, q in zip(tested, adjusted.tolist()):
    row["q"] = q
  return [row | {"verdict": _verdict(row)} for row in out]


def sign_flips(
  sums: Float[np.ndarray, "I M"], flips: int, seed: int
) -> Float[np.ndarray, "M"]:
  """Two-sided p-values of "the two models are one", by exchanging them.

  Were they one, both would have answered the questions about an image the other way
  round as likely: each image's sum has a random sign. That needs no model of how sure
  answers are, nor that questions about one image fail independently; for one question
  an image and one answer each it is McNemar's exact test. Drawn signs and the observed
  ones make (1 + as extreme) / (1 + flips), which is never too small.

  Args:
    sums: of the differences of each image, for M sets of questions.
    flips: how many signs are drawn.
    seed: of the signs.
  """
  generator = np.random.default_rng(seed)
  observed = np.abs(sums.sum(0))
  as_extreme = np.zeros(sums.shape[1])
  chunk = max(1, _CHUNK // max(len(sums), 1))
  for at in range(0, flips, chunk):
    size = (min(chunk, flips - at), len(sums))
    signs = generator.integers(0, 2, size, np.int8) * 2.0 - 1.0
    # Sums of rounded shares: equal ones may differ in the last digit.
    as_extreme += (np.abs(signs @ sums) >= observed - 1e-9).sum(0)
  return (1 + as_extreme) / (1 + flips)


def _verdict(row: dict[str, Any]) -> str:
  if row["q"] is not None and row["q"] <= ALPHA:
    if row["difference"] > 0:
      return "newly failing"
    return "fixed" if row["after"] < FAILS else "improved"
  return "still failing" if row["after"] >= FAILS else "no change"
