"""How the questions change over training: figures 8 and 9 of the paper."""

import numpy as np
import pandas as pd

from fmd_jax import metrics
from fmd_jax.analysis.rows import arms, known, windows
from fmd_jax.metrics.bootstrap import percentiles, resample_sums
from fmd_jax.metrics.skills import MORE_THAN

WINDOWS = 20  # of a density over training
CHANGE = 1.5  # by which a share must have grown or shrunk not to be persistent
PERSISTENT, EARLY, LATE = "persistent", "early-peaking", "late-emerging"
_LEVEL = 0.95
_RESAMPLES = 1000


def failure_curve(rows: pd.DataFrame) -> pd.DataFrame:
  """Figure 8: FDR and distinct failures against questions asked.

  Returns:
    arm, protocol, n, fdr, low, high, fdr_since, failures, distinct; see
    `metrics.cumulative`.
  """
  parts = [
    pd.DataFrame(metrics.cumulative(own)).assign(arm=arm, protocol=protocol)
    for arm, protocol, own in arms(rows)
  ]
  out = pd.concat(parts, ignore_index=True)
  first = ["arm", "protocol"]
  return out[first + [name for name in out if name not in first]]


def density(rows: pd.DataFrame, of: str = "meta_skills") -> pd.DataFrame:
  """Figure 9: the share of each window's valid questions that need a skill.

  Args:
    rows: of one arm while training.
    of: "meta_skills" or "skills".

  Returns:
    skill, window, step (the window's first), questions (of the window), n, share.
    Shares of a window add up to more than 1 where questions need several skills.
  """
  own = known(rows)
  window = windows(own["step"], WINDOWS)
  counts, names = _counts(own, of, window, WINDOWS)
  asked = np.bincount(window, minlength=WINDOWS)
  first = own["step"].groupby(window).min()
  table = counts.sum(0)
  return pd.DataFrame(
    [
      {
        "skill": name,
        "window": w,
        "step": int(first.get(w, 0)),
        "questions": int(asked[w]),
        "n": int(table[s, w]),
        "share": table[s, w] / asked[w] if asked[w] else np.nan,
      }
      for s, name in enumerate(names)
      for w in range(WINDOWS)
    ]
  )


def temporal(rows: pd.DataFrame, of: str = "skills") -> pd.DataFrame:
  """Each skill persistent, early-peaking or late-emerging.

  A skill's share of the valid questions in the last third of training is compared with
  that in the first third. It is late-emerging when the ratio is above 1.5 and its
  interval (bootstrap clustered by image) excludes 1, early-peaking when it is below
  1 / 1.5 likewise, and persistent otherwise. The classes are the paper's, the rule is
  ours.

  Args:
    rows: of one arm while training.
    of: "skills" or "meta_skills".

  Returns:
    skill, n, first, middle, last (shares of the thirds), peak (the step at which a
    tenth of training has the largest share), ratio, ratio_low, ratio_high (None: not
    bounded), pattern; most asked first. Skills with 20 questions or fewer are left out.
  """
  own = known(rows)
  third = windows(own["step"], 3)
  counts, names = _counts(own, of, third, 3)  # [I, S, 3]
  image = pd.factorize(own["image_id"], sort=True)[0]
  asked = np.zeros((counts.shape[0], 3))
  np.add.at(asked, (image, third), 1)
  tenth = windows(own["step"], 10)
  fine, _ = _counts(own, of, tenth, 10)
  per_tenth = np.maximum(np.bincount(tenth, minlength=10), 1)
  starts = own["step"].groupby(tenth).min()
  kept = np.flatnonzero(counts.sum((0, 2)) > MORE_THAN)
  flat = counts[:, kept].reshape(len(counts), -1)
  drawn = resample_sums(np.concatenate([flat, asked], 1), _RESAMPLES, 0)
  part = drawn[:, : flat.shape[1]].reshape(len(drawn), len(kept), 3)
  with np.errstate(divide="ignore", invalid="ignore"):
    shares = part / drawn[:, None, flat.shape[1] :]
    ratios = shares[:, :, 2] / shares[:, :, 0]
    share = counts.sum(0)[kept] / asked.sum(0)
    ratio = share[:, 2] / share[:, 0]
  out = []
  for k, s in enumerate(kept):
    low, high = percentiles(ratios[:, k], _LEVEL)
    peak = int((fine.sum(0)[s] / per_tenth).argmax())
    out.append(
      {
        "skill": names[s],
        "n": int(counts[:, s].sum()),
        **dict(zip(("first", "middle", "last"), share[k].tolist())),
        "peak": int(starts.get(peak, 0)),
        "ratio": float(ratio[k]) if np.isfinite(ratio[k]) else None,
        "ratio_low": low,
        "ratio_high": high,
        "pattern": _pattern(ratio[k], low, high),
      }
    )
  columns = [
    "skill", "n", "first", "middle", "last", "peak", "ratio", "ratio_low",
    "ratio_high", "pattern",
  ]  # fmt: skip
  table = pd.DataFrame(out, columns=columns)
  return table.sort_values(["n", "skill"], ascending=[False, True], ignore_index=True)


def _pattern(ratio: float, low: float | None, high: float | None) -> str:
  # An unbounded high end is above 1; without any draw there is no interval.
  if ratio > CHANGE and low is not None and low > 1:
    return LATE
  if ratio < 1 / CHANGE and high is not None and high < 1:
    return EARLY
  return PERSISTENT


def _counts(own: pd.DataFrame, of: str, window: np.ndarray, count: int):
  """[I, S, count] questions by image, skill and window; and the skills' names."""
  image, images = pd.factorize(own["image_id"], sort=True)
  lists = [sorted(set(skills)) for skills in own[of]]
  repeats = [len(skills) for skills in lists]
  flat = np.array([skill for skills in lists for skill in skills], object)
  codes, names = pd.factorize(flat, sort=True)
  out = np.zeros((len(images), len(names), count))
  np.add.at(out, (np.repeat(image, repeats), codes, np.repeat(window, repeats)), 1)
  return out, list(names)


def emergence(rows: pd.DataFrame) -> pd.DataFrame:
  """`temporal` of skills and of meta-skills for every arm that trains.

  Returns:
    arm, level ("skill", "meta-skill") and the columns of `temporal`.
  """
  parts = []
  for arm, protocol, own in arms(rows):
    if protocol == "during" and known(own)["step"].nunique() >= 3:
      for level, of in (("skill", "skills"), ("meta-skill", "meta_skills")):
        parts.append(temporal(own, of).assign(arm=arm, level=level))
  if not parts:
    return pd.DataFrame()
  out = pd.concat(parts, ignore_index=True)
  return out[["arm", "level", *[c for c in out if c not in ("arm", "level")]]]
