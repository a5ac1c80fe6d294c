"""Rates as they would be without the judge's errors, where these have been measured.

A judge looks for two faults: an invalid question, then, in one that it calls valid, a
wrong answer. Its sensitivity is the share of faults that it calls so, its specificity
that of the faultless that it lets pass, both against people. What it reports is then

  P(called valid)        = V sp + (1 - V)(1 - se)              V: truly valid
  P(wrong | called valid) = v (f se' + (1 - f)(1 - sp')) + (1 - v) k
                           v: truly valid of those called so; f: the true FDR; se', sp'
                           of the answer; k: share of invalid questions, called valid,
                           whose answer is called wrong

and V and f are what solves this (Rogan and Gladen, https://doi.org/10.1093/
oxfordjournals.aje.a112510, twice). Errors that grow with difficulty are told apart by
`difficulty`: bands are solved one by one and added up.

Intervals: in each of R draws images are drawn again, with their questions and the
labels of these together: what luck gives the labelled rows is part of the rates and of
the errors alike, and counted once. Errors whose labels are not told image by image come
from beta distributions, as if the labels were of other questions.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from fmd_jax.metrics.bootstrap import (
  LEVEL,
  RESAMPLES,
  cluster_sums,
  effective_n,
  percentiles,
  resample_sums,
)
from fmd_jax.metrics.rates import flags
from fmd_jax.metrics.skills import RATED_MORE_THAN
from fmd_jax.world.skills import EASY_SKILLS

LEAST_LABELS = 20  # of a statistic in a band; with fewer it is that of all bands
_WORDS = (7, 12)  # of a short and of a medium question
# Of a calibration: name here -> where it stands there.
STATISTICS = {
  "se": ("valid", "sensitivity"),
  "sp": ("valid", "specificity"),
  "se_answer": ("correct", "sensitivity"),
  "sp_answer": ("correct", "specificity"),
  "wrong_if_invalid": ("correct", "wrong_when_invalid"),
}
NOTHING = {"value": None, "low": None, "high": None}
Errors = dict[str, Float[np.ndarray, "R B"]]


def difficulty(df: pd.DataFrame) -> np.ndarray:
  """The difficulty band of each question, the same rule for every method of a run.

  In the testbed, where the skills of invalid questions are known too: "easy" (one easy
  skill), "one" (another), "several", "none" (unreadable). Elsewhere by length, since
  nothing else is known of a question that no taxonomy annotates: "short", "medium",
  "long". A question that was not asked is "none".

  Args:
    df: rows of evaluations/*.parquet, with their own `skills`.

  Returns:
    [N] strings.
  """
  if "truth" in df and df["skills"].notna().any():
    return np.array([_by_skills(own) for own in df["skills"]], object)
  words = df["question"].str.split().str.len().to_numpy()
  bands = np.array(["short", "medium", "long"], object)[
    np.digitize(words, _WORDS, True)
  ]
  return np.where(words == 0, "none", bands)


def _by_skills(skills) -> str:
  if skills is None or not len(skills):
    return "none"
  if len(skills) > 1:
    return "several"
  return "easy" if skills[0] in EASY_SKILLS else "one"


def corrected(
  df: pd.DataFrame,
  known: Mapping[str, Any],
  *,
  more_than: int = RATED_MORE_THAN,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, Any]:
  """QVR, FDR and the failure rates of skills, without the judge's measured errors.

  Args:
    df: rows with image_id, status, valid, correct, and where known `skills`, `band`.
    known: the judge's entry in calibration.json, see `trust.calibrate`.
    more_than: skills with this many valid questions or fewer are left out.
    resamples: R.
    seed: of the draws.
    level: of the intervals.

  Returns:
    "qvr", "fdr" (value, low, high in [0, 1]), "skills" (skill -> the same), "by"
    ("band" or "all"), and "reason", why nothing can be said, else None.
  """
  bands = _bands(df, known)
  labels = sorted(set(bands))
  out = {"qvr": NOTHING, "fdr": NOTHING, "skills": {}, "reason": None}
  out["by"] = "all" if labels == ["all"] else "band"
  missing = _missing(known)
  if missing or not labels:
    return out | {"reason": missing or "no question was asked"}
  images, sums, unparsed = _sums(df, bands, labels)
  if not sums.sum((0, 2))[1]:
    return out | {"reason": "no question was called valid"}
  union = _with_labelled(images, known)
  sums, unparsed = (_placed(part, images, union) for part in (sums, unparsed))
  errors = _errors(known, labels, union, resamples, seed)
  observed = _observed(sums, resamples, seed)
  rates = solve(*observed, errors)
  # An unparsed slot is an invalid question without a judge's error. The same seed and
  # number of images are the same draws.
  drawn = resample_sums(unparsed, resamples, seed)[:, 0]
  asked = observed[0].sum(-1)
  rates["qvr"] *= asked / (asked + np.concatenate([[unparsed.sum()], drawn]))
  if np.isnan(rates["fdr"][1:]).mean() > 0.5:
    return out | {"reason": "the judge can't be told from chance"}
  out |= {name: _ends(rates[name], level) for name in ("qvr", "fdr")}
  if "skills" in df:
    out["skills"] = {
      skill: _ends(fdr, level)
      for skill, fdr in _skills(
        df, bands, labels, union, errors, rates, more_than, seed
      )
    }
  return out


def corrected_ratio(
  a: pd.DataFrame,
  b: pd.DataFrame,
  known: Mapping[str, Any],
  *,
  resamples: int = RESAMPLES,
  seed: int = 0,
  level: float = LEVEL,
) -> dict[str, float | None]:
  """Corrected FDR of `a` over that of `b`, judged by one judge: value, low, high.

  Both see the same draws of its errors and, where they share images, of these.
  """
  bands = [_bands(df, known) for df in (a, b)]
  labels = sorted(set(bands[0]) | set(bands[1]))
  if _missing(known) or not (len(a) and len(b)):
    return dict(NOTHING)
  sides = [_sums(df, own, labels) for df, own in zip((a, b), bands)]
  union = _with_labelled(sides[0][0].union(sides[1][0]), known)
  errors = _errors(known, labels, union, resamples, seed)
  fdrs = []
  for images, sums, _ in sides:
    if not sums.sum((0, 2))[1]:
      return dict(NOTHING)
    observed = _observed(_placed(sums, images, union), resamples, seed)
    fdrs.append(solve(*observed, errors)["fdr"].clip(0, 1))
  with np.errstate(divide="ignore", invalid="ignore"):
    ratio = fdrs[0] / fdrs[1]
  if not np.isfinite(ratio[0]) or np.isnan(ratio[1:]).mean() > 0.5:
    return dict(NOTHING)
  low, high = percentiles(ratio[1:], level)
  return {"value": float(ratio[0]), "low": low, "high": high}


def solve(
  asked: Float[np.ndarray, "R B"],
  valid: Float[np.ndarray, "R B"],
  wrong: Float[np.ndarray, "R B"],
  errors: Errors,
) -> dict[str, np.ndarray]:
  """The equations of this module, solved draw by draw.

  Args:
    asked: questions of each band.
    valid: the share of them that is called valid.
    wrong: the share of those whose answer is called wrong.
    errors: `STATISTICS`, each [R, B].

  Returns:
    "qvr", "fdr" [R], not cut to [0, 1], and "truly" [R, B], the share of truly valid
    ones of those called valid. NaN where a judge of that draw is no better than chance.
  """
  se, sp = errors["se"], errors["sp"]
  with np.errstate(divide="ignore", invalid="ignore"):
    truth = (valid + se - 1) / (se + sp - 1)
    truly = np.where(valid > 0, truth * sp / valid, 0.0)
    called = asked * valid
    n, failures = _true_counts(called, called * wrong, truly, errors)
    total = n.sum(-1)
    fdr = np.where(total > 0, failures.sum(-1) / total, np.nan)
    qvr = (asked * truth).sum(-1) / asked.sum(-1)
  there = asked > 0
  chance = (se + sp <= 1) & there
  chance |= (errors["se_answer"] + errors["sp_answer"] <= 1) & there
  lost = chance.any(-1)
  qvr, fdr = np.where(lost, np.nan, qvr), np.where(lost, np.nan, fdr)
  return {"qvr": qvr, "fdr": fdr, "truly": truly}


def _true_counts(called, wrong, truly, errors):
  """Truly valid questions and failures among some, from what the judge called so.

  Those that it wrongly calls invalid are put back: its `sp` is the same for all of a
  band, so each that is left stands for 1 / sp.
  """
  n = called * truly
  invalid = called * (1 - truly)
  found = wrong - invalid * errors["wrong_if_invalid"] - n * (1 - errors["sp_answer"])
  failures = found / (errors["se_answer"] + errors["sp_answer"] - 1)
  return n / errors["sp"], failures / errors["sp"]


def _bands(df: pd.DataFrame, known) -> np.ndarray:
  if "band" in df and known.get("bands"):
    return df["band"].to_numpy(object)
  return np.full(len(df), "all", object)


def _missing(known) -> str | None:
  for name in ("se", "sp", "se_answer", "sp_answer"):
    part, statistic = STATISTICS[name]
    if known[part][statistic]["value"] is None:
      return f"no label tells the {statistic} of {part!r}"
  return None


def _with_labelled(images: pd.Index, known) -> pd.Index:
  """The images and those of the labels: all are drawn together."""
  labelled = np.array(known.get("labels", {}).get("image_id", []), object)
  return images.union(pd.Index(pd.unique(labelled), dtype=object))


def _placed(sums, images: pd.Index, union: pd.Index):
  """Sums of some images among those of all."""
  out = np.zeros((len(union), *sums.shape[1:]))
  out[union.get_indexer(images)] = sums
  return out


def _errors(known, labels: Sequence[str], union, resamples: int, seed: int) -> Errors:
  """[1 + R, B]: the estimates first, then the draws."""
  out = {}
  for place, (name, (part, statistic)) in enumerate(STATISTICS.items()):
    columns = []
    for b, label in enumerate(labels):
      band, own = label, known.get("bands", {}).get(label, known)[part][statistic]
      if label not in known.get("bands", {}) or own["n"] < LEAST_LABELS:
        band, own = "all", known[part][statistic]
      # Without an invalid question called valid, anything may be said of its answer.
      value, n = (0.5, 0.0) if own["value"] is None else (own["value"], own["n_eff"])
      if "labels" in known and 0 < value < 1 and n:
        sums = _label_sums(known["labels"], part, statistic, band, union)
        scale = n / sums[:, 0].sum()
        of, hits = scale * resample_sums(sums, resamples, seed).T
        drawn = (hits + 0.5) / (of + 1)
      else:
        # By name, not by place: a band keeps its draws whichever others there are.
        generator = np.random.default_rng([seed, place, b])
        drawn = generator.beta(value * n + 0.5, (1 - value) * n + 0.5, resamples)
      columns.append(np.concatenate([[value], drawn]))
    out[name] = np.stack(columns, 1)
  return out


def _label_sums(labels, part: str, statistic: str, band: str, union: pd.Index):
  """[I, 2]: labels of each image that tell a statistic, and hits among them."""
  own = labels[part][statistic]
  there = np.ones(len(labels["image_id"]), bool)
  if band != "all":
    there = np.array(labels["band"], object) == band
  rows = union.get_indexer(pd.Index(labels["image_id"], dtype=str)[there])
  return np.stack(
    [
      np.bincount(rows, np.array(own[name], float)[there], len(union))
      for name in ("n", "hits")
    ],
    1,
  )


def _sums(df, bands, labels):
  """The image ids; judged, called valid, called wrong [I, 3, B]; unparsed [I, 1]."""
  columns = flags(df)
  columns["judged"] = columns["scored"] & ~columns["unparsed"]
  wanted = [
    columns[name] & (bands == label)
    for name in ("judged", "valid", "failure")
    for label in labels
  ]
  images, sums = cluster_sums(
    df["image_id"].astype(str), [*wanted, columns["unparsed"]]
  )
  return images, sums[:, :-1].reshape(len(images), 3, len(labels)), sums[:, -1:]


def _observed(sums: Float[np.ndarray, "I 3 B"], resamples: int, seed: int):
  """Asked, share valid, share wrong: [1 + R, B] each, the counts as they are first."""
  drawn = resample_sums(sums.reshape(len(sums), -1), resamples, seed)
  return _shares(sums, drawn, seed)


def _shares(sums: Float[np.ndarray, "I 3 B"], drawn: np.ndarray, seed: int):
  """The same of sums that have been drawn already, [R, 3 B]."""
  width = sums.shape[-1]
  whole = np.concatenate([sums.sum(0).reshape(1, -1), drawn])
  asked, valid, wrong = whole.reshape(-1, 3, width).transpose(1, 0, 2)
  return asked, *(
    _share(count, of, sums[:, place], seed)
    for place, (count, of) in enumerate(((valid, asked), (wrong, valid)))
  )


def _share(count, of, clusters, seed: int) -> Float[np.ndarray, "R B"]:
  """count / of; where no image disagrees, draws of the beta of the effective n."""
  share = np.where(of > 0, count / np.where(of > 0, of, 1), 0.0)
  generator = np.random.default_rng([seed, share.shape[1]])
  for b in np.flatnonzero((share[0] == 0) | (share[0] == 1)):
    n = effective_n(clusters[:, b])
    if n:
      hits = share[0, b] * n
      share[1:, b] = generator.beta(hits + 0.5, n - hits + 0.5, len(share) - 1)
  return share


def _ends(rates: Float[np.ndarray, "R"], level: float) -> dict[str, float | None]:
  if np.isnan(rates[0]):
    return dict(NOTHING)
  rates = rates.clip(0.0, 1.0)
  value = float(rates[0])
  low, high = percentiles(rates[1:], level)
  if low is None or high is None:
    return {"value": value, "low": None, "high": None}
  return {"value": value, "low": min(low, value), "high": max(high, value)}


def _skills(
  df, bands, labels, union, errors, rates, more_than, seed
) -> Iterator[tuple[str, Float[np.ndarray, "R"]]]:
  """Failure rate of each skill; its share of invalid questions is that of the band."""
  columns = flags(df)
  rows = df.loc[columns["valid"] & df["skills"].notna().to_numpy(), ["image_id"]]
  rows = rows.assign(
    skill=[sorted(set(own)) for own in df.loc[rows.index, "skills"]],
    failed=pd.Series(columns["failure"], df.index)[rows.index],
    band=pd.Series(bands, df.index)[rows.index],
  ).explode("skill")
  counts = {}
  for skill, own in rows.dropna(subset="skill").groupby("skill"):
    if len(own) <= more_than:
      continue
    own_bands = own["band"].to_numpy(object)
    failed = own["failed"].to_numpy(bool)
    each = [own_bands == label for label in labels]
    each += [failed & x for x in each]
    images, sums = cluster_sums(own["image_id"].astype(str), each)
    sums = sums.reshape(len(images), 2, len(labels))[:, [0, 0, 1]]
    counts[str(skill)] = _placed(sums, images, union)
  if not counts:
    return
  together = np.stack(list(counts.values()), 1).reshape(len(union), -1)
  drawn = resample_sums(together, len(rates["fdr"]) - 1, seed)
  for (skill, sums), own in zip(counts.items(), np.split(drawn, len(counts), 1)):
    called, _, wrong = _shares(sums, own, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
      n, failures = _true_counts(called, called * wrong, rates["truly"], errors)
      fdr = failures.sum(-1) / n.sum(-1)
    yield skill, np.where(np.isnan(rates["fdr"]) | ~np.isfinite(fdr), np.nan, fdr)
