"""A consensus that weighs raters by how reliable each one is."""

import numpy as np
import pandas as pd
from jaxtyping import Float

ITERATIONS = 100


def dawid_skene(labels: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "N"]:
  """Probability that each item's true label is 1, by Dawid and Skene's EM.

  The majority counts every rater alike; here each has an error rate of their own, as
  the labels tell it. https://doi.org/10.2307/2346806, by crowd-kit.

  Args:
    labels: [N items, R raters] of 0, 1 and NaN for "did not rate".

  Returns:
    [N]; NaN for an item that nobody rated.

  Raises:
    RuntimeError: crowd-kit is not installed.
  """
  try:
    from crowdkit.aggregation import DawidSkene
  except ImportError as error:
    raise RuntimeError(
      "Dawid and Skene's consensus needs crowd-kit: pip install crowd-kit==1.4.2"
    ) from error
  labels = np.asarray(labels, float)
  items, raters = np.nonzero(~np.isnan(labels))
  out = np.full(len(labels), np.nan)
  if not len(items):
    return out
  given = labels[items, raters].astype(int)
  table = pd.DataFrame({"task": items, "worker": raters, "label": given})
  found = DawidSkene(n_iter=ITERATIONS, tol=1e-9).fit(table).probas_
  # A label that nobody gave has no column.
  ones = found[1] if 1 in found else pd.Series(0.0, found.index)
  out[ones.index.to_numpy()] = ones.to_numpy()
  return out
