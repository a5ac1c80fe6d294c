"""How much is left to find: species richness of skills, combinations and modes."""

from collections import Counter
from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import special

from fmd_jax.analysis.rows import arms, known

POINTS = 30
_Z = 1.959964  # of a 95 % interval


def chao1(counts: Int[np.ndarray, "S"]) -> dict[str, float]:
  """Chao's lower bound of how many kinds there are, seen or not.

  Bias-corrected: seen + f1 (f1 - 1) / (2 (f2 + 1)), f1 kinds seen once, f2 twice. The
  interval is log-normal (Chao 1987, https://doi.org/10.2307/2531532), never below what
  was seen. Coverage is Good's: the chance that the next question is of a seen kind.

  Args:
    counts: [S] how often each seen kind was seen, all above 0.

  Returns:
    seen, estimate, low, high, coverage.
  """
  seen, n = len(counts), int(counts.sum())
  once, twice = int((counts == 1).sum()), int((counts == 2).sum())
  unseen = once * (once - 1) / (2 * (twice + 1))
  if not unseen:
    low = high = float(seen)
  else:
    variance = (
      unseen
      + once * (2 * once - 1) ** 2 / (4 * (twice + 1) ** 2)
      + once**2 * twice * (once - 1) ** 2 / (4 * (twice + 1) ** 4)
    )
    factor = np.exp(_Z * np.sqrt(np.log1p(variance / unseen**2)))
    low, high = seen + unseen / factor, seen + unseen * factor
  return {
    "seen": seen,
    "estimate": seen + unseen,
    "low": float(low),
    "high": float(high),
    "coverage": 1 - once / n if n else np.nan,
  }


def rarefaction(
  counts: Int[np.ndarray, "S"], sizes: Int[np.ndarray, "K"]
) -> Float[np.ndarray, "K"]:
  """Expected kinds among so many draws without replacement (Hurlbert 1971)."""
  n = int(counts.sum())
  log = special.gammaln

  def ways(total, chosen):
    total = np.asarray(total, float)
    out = np.full(np.broadcast(total, chosen).shape, -np.inf)
    fits = chosen <= total
    total, chosen = (
      np.broadcast_to(total, out.shape),
      np.broadcast_to(chosen, out.shape),
    )
    t, c = total[fits], chosen[fits]
    out[fits] = log(t + 1) - log(c + 1) - log(t - c + 1)
    return out

  missed = ways(n - counts[:, None], sizes[None]) - ways(n, sizes)[None]
  return (1 - np.exp(missed)).sum(0)


def _kinds(rows: pd.DataFrame) -> dict[str, Iterable[Hashable]]:
  """What is counted, of distinct valid (image, question)."""
  own = known(rows).drop_duplicates(["image_id", "question"])
  wrong = own[own["failure"]]
  return {
    "skills": [s for skills in own["skills"] for s in set(skills)],
    "skills that fail": [s for skills in wrong["skills"] for s in set(skills)],
    "combinations": [tuple(sorted(set(skills))) for skills in own["skills"]],
    "combinations that fail": [
      tuple(sorted(set(skills))) for skills in wrong["skills"]
    ],
  }


def richness(rows: pd.DataFrame) -> pd.DataFrame:
  """Kinds seen, the estimate of all, and the coverage.

  Returns:
    arm, protocol, kind, n, seen, estimate, low, high, coverage, left (estimate - seen).
  """
  out = []
  for arm, protocol, own in arms(rows):
    for kind, things in _kinds(own).items():
      counts = np.array([*Counter(things).values()], int)
      found = chao1(counts)
      line = {"arm": arm, "protocol": protocol, "kind": kind, "n": int(counts.sum())}
      out.append(line | found | {"left": found["estimate"] - found["seen"]})
  return pd.DataFrame(out)


def curves(rows: pd.DataFrame) -> pd.DataFrame:
  """Rarefaction: kinds expected among the first n, in random order.

  Returns:
    arm, protocol, kind, n, expected.
  """
  parts = []
  for arm, protocol, own in arms(rows):
    for kind, things in _kinds(own).items():
      counts = np.array([*Counter(things).values()], int)
      if not counts.sum():
        continue
      sizes = np.unique(np.linspace(1, counts.sum(), POINTS).astype(int))
      part = pd.DataFrame({"n": sizes, "expected": rarefaction(counts, sizes)})
      parts.append(part.assign(arm=arm, protocol=protocol, kind=kind))
  columns = ["arm", "protocol", "kind", "n", "expected"]
  return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame()
