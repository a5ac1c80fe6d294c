"""People's labels of a run -> how far they agree, and calibration.json.

labels (a row for each rater and question) -> consensus -> beside each judge's verdicts
"""

from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from fmd_jax import metrics, records
from fmd_jax.evaluate import read_evaluations
from fmd_jax.trust import agreement
from fmd_jax.trust.calibration import calibrate, write_calibration
from fmd_jax.trust.consensus import dawid_skene

KEY = ["method", "split", "step", "image_id", "response_index", "slot"]
CONSENSUS = ("majority", "dawid_skene")


def score(
  workdir: epath.PathLike, labels: pd.DataFrame, consensus: str = "majority"
) -> dict[str, Any]:
  """Measures the judges of a run, evaluator and verifier, against people.

  Args:
    workdir: of an evaluated run.
    labels: `KEY`, which names a question slot of the run; rater; valid and correct, 1,
      0 or empty; and optional `weight`, one over the probability with which the slot
      was drawn for the study.
    consensus: "majority", or "dawid_skene", which weighs raters by their reliability.

  Returns:
    What it writes to calibration.json: of `calibrate`, with "raters" (items, raters,
    alpha and ac1 among them, for valid and correct) and each judge's "agreement" with
    the consensus: percent, kappa, ac1 (weighted), and by_margin, its accuracy where
    people agreed 5-0, 4-1, 3-2 (of the labelled slots alone).

  Raises:
    ValueError: a column is missing, a value is none of 0 and 1, a rater labelled a slot
      twice, or a label is of no question of the run.
  """
  if consensus not in CONSENSUS:
    raise ValueError(f"consensus is {consensus!r}; available: {', '.join(CONSENSUS)}")
  items, votes = _votes(labels)
  agree = agreement.majority if consensus == "majority" else _likelier
  truth = {name: agree(given) for name, given in votes.items()}
  # A question that is invalid has no right answer, whatever some rater made of it.
  truth["correct"] = np.where(truth["valid"] == 1, truth["correct"], np.nan)
  items = items.assign(**{f"true_{name}": own for name, own in truth.items()})
  judged = _verdicts(epath.Path(workdir))
  joined = items.assign(item=np.arange(len(items))).merge(judged, on=KEY)
  lost = set(range(len(items))) - set(joined["item"])
  if lost:
    first = items.iloc[min(lost)][KEY].to_dict()
    raise ValueError(f"{len(lost)} labelled slots are not in this run, such as {first}")
  found = calibrate(joined)
  found["consensus"] = consensus
  found["raters"] = {
    "items": len(items),
    "raters": int(labels["rater"].nunique()),
    **{
      name: {
        "alpha": agreement.krippendorff_alpha(given),
        "ac1": agreement.gwet_ac1(given),
      }
      for name, given in votes.items()
    },
  }
  for judge, own in joined.groupby("judge"):
    found["judges"][judge]["agreement"] = {
      name: _agreement(own, name, given[own["item"]]) for name, given in votes.items()
    }
  write_calibration(workdir, found)
  return found


def _votes(labels: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
  """The labelled slots, and what each rater said of each: [N, R] for both steps."""
  missing = [name for name in (*KEY, "rater", "valid", "correct") if name not in labels]
  if missing:
    raise ValueError(f"the labels have no column {', '.join(missing)}")
  for name in ("valid", "correct"):
    bad = labels.loc[labels[name].notna() & ~labels[name].isin([0, 1]), name]
    if len(bad):
      raise ValueError(f"a label's {name} is {bad.iloc[0]}; it can be 1, 0 or empty")
  twice = labels[labels.duplicated([*KEY, "rater"])]
  if len(twice):
    first = twice.iloc[0]
    raise ValueError(
      f"rater {first['rater']!r} labelled {first[KEY].to_dict()} more than once"
    )
  columns = [*KEY, "weight"] if "weight" in labels else KEY
  items = labels[columns].drop_duplicates(KEY).reset_index(drop=True)
  index = pd.MultiIndex.from_frame(items[KEY])
  row = index.get_indexer(pd.MultiIndex.from_frame(labels[KEY]))
  rater, names = pd.factorize(labels["rater"])
  votes = {}
  for name in ("valid", "correct"):
    votes[name] = np.full((len(items), len(names)), np.nan)
    votes[name][row, rater] = labels[name].astype(float)
  votes["correct"][votes["valid"] != 1] = np.nan
  return items, votes


def _likelier(votes: np.ndarray) -> np.ndarray:
  found = dawid_skene(votes)
  return np.where(found > 0.5, 1.0, np.where(found < 0.5, 0.0, np.nan))


def _verdicts(workdir: epath.Path) -> pd.DataFrame:
  """What the evaluator and the verifier said: `KEY`, judge, band, valid, correct."""
  parts = []
  for (protocol, method), table in read_evaluations(workdir).items():
    banded = table.assign(band=metrics.difficulty(table))
    parts.append(banded.rename(columns={"evaluator": "judge"}))
    own = records.read(workdir, method, "train" if protocol == "during" else "heldout")
    own = own.rename(columns={"verifier": "judge"})
    parts.append(own.merge(banded[[*KEY, "band"]], on=KEY))
  if not parts:
    raise ValueError(f"{workdir} is not evaluated: run launch.evaluate first")
  rows = pd.concat(
    [part[[*KEY, "judge", "band", "valid", "correct"]] for part in parts]
  )
  return rows.drop_duplicates([*KEY, "judge"])


def _agreement(own: pd.DataFrame, name: str, votes: np.ndarray) -> dict[str, Any]:
  judge = own[name].astype("boolean").to_numpy(float, na_value=np.nan)
  truth = own[f"true_{name}"].to_numpy(float)
  if name == "correct":
    judge = np.where(own["valid"].fillna(False).to_numpy(bool), judge, np.nan)
  margins = agreement.accuracy_by_margin(judge, votes, own["image_id"].tolist())
  there = ~np.isnan(judge) & ~np.isnan(truth)
  weight = own["weight"].to_numpy(float) if "weight" in own else None
  both = np.where(there[:, None], np.stack([judge, truth], 1), np.nan)
  return {
    "n": int(there.sum()),
    "percent": agreement.percent_agreement(judge, truth, weight),
    "kappa": agreement.cohen_kappa(judge, truth, weight),
    "ac1": agreement.gwet_ac1(both, weight),
    "by_margin": {key: estimate._asdict() for key, estimate in margins.items()},
  }


def table(found: dict[str, Any]) -> str:
  """calibration.json as text: a line for each judge and step."""
  raters = found["raters"]
  lines = [
    f"{raters['items']:,} questions, {raters['raters']} raters, consensus by "
    f"{found['consensus']}; alpha among raters: valid "
    f"{_text(raters['valid']['alpha'])}, correct {_text(raters['correct']['alpha'])}"
  ]
  head = ("judge", "step", "agrees", "kappa", "AC1", "sensitivity", "specificity")
  rows = [head]
  for judge, own in found["judges"].items():
    for step in ("valid", "correct"):
      agreed = own["agreement"][step]
      shares = [own[step][name] for name in ("sensitivity", "specificity")]
      ends = [f"[{_text(s['low'])}, {_text(s['high'])}]" for s in shares]
      shares = [f"{_text(s['value'])} {e}" for s, e in zip(shares, ends)]
      numbers = [_text(agreed[name]) for name in ("percent", "kappa", "ac1")]
      rows.append((judge, step, *numbers, *shares))
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows]
  return "\n".join(lines)


def _text(value: float | None) -> str:
  return "–" if value is None else f"{value:.3f}"
