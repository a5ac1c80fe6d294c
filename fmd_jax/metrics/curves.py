"""How the failures came in: the paper's Figure 8."""

from typing import Any

import numpy as np
import pandas as pd

from fmd_jax.metrics.bootstrap import LEVEL, RESAMPLES, ratio_estimates
from fmd_jax.metrics.rates import flags

POINTS = 30


def cumulative(
  df: pd.DataFrame,
  *,
  points: int = POINTS,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, list[Any]]:
  """FDR and failures against questions asked.

  Args:
    df: rows in the order of asking, with image_id, status, question, valid, correct.
      Of a sample of all questions the column `place` tells how many had been asked
      before each; without it none is missing.
    points: evenly over the questions; fewer where there are fewer questions.
    resamples: draws of the bootstrap, clustered by image.
    seed: of the draws.
    level: of the intervals.

  Returns:
    Lists of one length: "n" (questions asked), "fdr", "low", "high" of the first n,
    "fdr_since" of those since the last point (the slope of the failures), "failures"
    and "distinct" ((image, question) counted once) among the first n. None stands
    where nothing valid had been asked.
  """
  place = df["place"].to_numpy() if "place" in df else np.arange(len(df))
  asked = int(place.max(initial=-1)) + 1
  stops = np.unique(np.linspace(0, asked, points + 1).round().astype(int))[1:]
  columns = flags(df)
  images, names = pd.factorize(df["image_id"], sort=True)
  cell = images * len(stops) + np.searchsorted(stops, place, side="right")
  shape = (len(names), len(stops))
  wrong, valid = (
    np.bincount(cell[columns[name]], minlength=shape[0] * shape[1]).reshape(shape)
    for name in ("failure", "valid")
  )
  found = ratio_estimates(
    wrong.cumsum(1), valid.cumsum(1), resamples=resamples, seed=seed, level=level
  )
  since = [
    w / v if v else None for w, v in zip(*(x.sum(0).tolist() for x in (wrong, valid)))
  ]
  failed = np.flatnonzero(columns["failure"])
  again = df.iloc[failed].duplicated(["image_id", "question"]).to_numpy()
  first = np.sort(place[failed[~again]])
  return {
    "n": stops.tolist(),
    "fdr": [estimate.value for estimate in found],
    "low": [estimate.low for estimate in found],
    "high": [estimate.high for estimate in found],
    "fdr_since": since,
    "failures": [estimate.count for estimate in found],
    "distinct": np.searchsorted(first, stops).tolist(),
  }
