"""The numbers of a run: evaluations/*.parquet -> metrics.json."""

import json
from typing import Any

import numpy as np
import pandas as pd
from absl import logging
from etils import epath

from fmd_jax import metrics
from fmd_jax.evaluate.census import shipped_census
from fmd_jax.evaluate.judged import EXACT
from fmd_jax.inference import Embedder
from fmd_jax.records.confirmed import read_confirmed
from fmd_jax.records.files import write_atomic
from fmd_jax.records.measurements import totals
from fmd_jax.records.reader import read_parquet

PROTOCOLS = {"during": "train", "after": "heldout"}
BASELINE = "zero_shot"
# A method is compared with those before it; others come last, by name.
_ORDER = ("zero_shot", "sft", "conme", "expert_iteration", "grpo", "sft_then_grpo")
_BATCH = 512
CALIBRATION = "calibration.json"  # in a workdir; `trust.calibrate` makes it


def measure(
  workdir: epath.PathLike, embedder: Embedder, seed: int, tier: int = 1
) -> dict[str, Any]:
  """Makes `metrics.json` of the evaluations, or of a tier `metrics-tier-N.json`.

  Diversity is also given at one N: that of the method with the fewest valid questions
  of the protocol. Skills are those of taxonomy/assignments.parquet where it exists,
  else the oracle's. Whether planted blind spots were found is told ("planted", else
  None) where the answerer has a census and the pictures carry their scenes.

  Where calibration.json knows the evaluator, rates without its errors stand beside
  the raw ones ("corrected"); "calibration" is "calibrated", "uncalibrated", or "exact"
  of the testbed's oracle.

  Args:
    workdir: of a run with evaluations.
    embedder: of the valid questions.
    seed: of all draws.
    tier: only failures that reached it (`metrics.TIERS`) count as such, and nothing is
      corrected: a judge's errors are those of single answers.

  Returns:
    "evaluation": who judged how many of how many questions, and where skills come from;
    "methods": method -> protocol -> `metrics.summarise`, with "planted" and
    "distinct_per_1000_verifier_calls" (while training; None of a sample, which holds
    fewer repeats, and where nobody counted);
    "comparison": method -> protocol -> FDR and QVR against Zero Shot; "pairs": the same
    of every two methods, with their skills, p-values adjusted over these.
  """
  workdir = epath.Path(workdir)
  tables = {
    key: table.assign(band=metrics.difficulty(table))
    for key, table in read_evaluations(workdir, tier).items()
  }
  judges = read_calibration(workdir) if tier == 1 else {}
  tables, source = with_skills(workdir, tables)
  evaluation = _statement(workdir, tables) | {"skills": source, "tier": tier}
  result: dict[str, Any] = {
    "evaluation": evaluation,
    "methods": {},
    "comparison": {},
    "pairs": [],
  }
  census, spent = shipped_census(workdir), totals(workdir, "budget")
  for protocol in PROTOCOLS:
    own = {m: t for (p, m), t in tables.items() if p == protocol}
    valid = {m: t.loc[metrics.flags(t)["valid"], "question"] for m, t in own.items()}
    planted = {
      m: None if census is None else metrics.planted_truth(t, census)
      for m, t in own.items()
    }
    fewest = min((len(v) for v in valid.values() if len(v)), default=0)
    for method, table in own.items():
      vectors = embed_distinct(embedder, valid[method].tolist())
      summary = metrics.summarise(table, vectors, common_n=fewest or None, seed=seed)
      summary["planted"] = planted[method]
      summary |= _calibrated(table, judges, seed)
      summary["distinct_per_1000_verifier_calls"] = None
      if protocol == "during":
        found = summary["failures"]["distinct"]
        rate = _per_1000(found, evaluation, spent.get(method, {}))
        summary["distinct_per_1000_verifier_calls"] = rate
      result["methods"].setdefault(method, {})[protocol] = summary
    for a, b in _pairs(list(own)):
      found = _compared(own[a], own[b], judges, seed)
      result["pairs"].append({"protocol": protocol, "a": a, "b": b, **found})
      if b == BASELINE:
        ratio = metrics.area_ratio(planted[a], planted[b])
        rates = {rate: found[rate] for rate in ("fdr", "qvr", "corrected_fdr_ratio")}
        result["comparison"].setdefault(a, {})[protocol] = {
          **rates,
          "planted_area_ratio": ratio,
        }
  text = json.dumps(result, indent=2, allow_nan=False) + "\n"
  path = workdir / (f"metrics-tier-{tier}.json" if tier > 1 else "metrics.json")
  write_atomic(path, text.encode())
  logging.info("wrote %s", path)
  return result


def read_evaluations(
  workdir: epath.PathLike, tier: int = 1
) -> dict[tuple[str, str], pd.DataFrame]:
  """(protocol, method) -> what the evaluator said, in the order of asking.

  Args:
    workdir: of an evaluated run.
    tier: above 1 only confirmed failures count, see `metrics.at_tier`.

  Raises:
    ValueError: there is no confirmed.parquet to tell the tiers.
  """
  tables = {
    (protocol, path.stem.removesuffix("_heldout")): read_parquet(path)
    for protocol, split in PROTOCOLS.items()
    for path in sorted((epath.Path(workdir) / "evaluations").glob("*.parquet"))
    if path.stem.endswith("_heldout") == (split == "heldout")
  }
  if tier == 1:
    return tables
  confirmed = read_confirmed(workdir)
  if confirmed is None:
    raise ValueError(
      f"{workdir} has no confirmed.parquet to tell tiers: "
      f"python -m launch.confirm --workdir {workdir}"
    )
  return {
    (protocol, method): metrics.at_tier(
      table,
      *confirmed,
      method if protocol == "during" else f"{method}_heldout",
      tier,
    )
    for (protocol, method), table in tables.items()
  }


def with_skills(workdir: epath.PathLike, tables: dict) -> tuple[dict, str | None]:
  """The tables of `read_evaluations` with the taxonomy's skills, and their source."""
  path = epath.Path(workdir) / "taxonomy" / "assignments.parquet"
  source = None
  if path.is_file():
    source, assignments = "taxonomy", read_parquet(path)
    tables = {k: metrics.with_skills(t, assignments) for k, t in tables.items()}
  elif any(table["skills"].notna().any() for table in tables.values()):
    source = "oracle"
  # A method without any is one of which nothing is known: no skills, not zero.
  for key, table in tables.items():
    if table["skills"].isna().all():
      tables[key] = table.drop(columns=["skills"])
      if source == "taxonomy":
        logging.warning("the taxonomy has no skill of %s, %s", *key[::-1])
  return tables, source


def _statement(workdir, tables) -> dict[str, Any]:
  """Who judged, and how much of what was asked."""
  path = workdir / "evaluations" / "plan.json"
  judges = {j for table in tables.values() for j in table["evaluator"].unique()}
  known = json.loads(path.read_text()) if path.is_file() else {"sample": None}
  return known | {"evaluators": sorted(judges)}


def _per_1000(found: int, evaluation, spent: dict[str, float]) -> float | None:
  """Distinct failures for the calls that measurements.jsonl counts."""
  calls = spent.get("verifier_calls")
  if evaluation["sample"] or not calls:
    return None
  return 1000 * found / calls


def _pairs(methods: list[str]) -> list[tuple[str, str]]:
  known = [name for name in _ORDER if name in methods]
  order = known + sorted(set(methods) - set(known))
  return [(a, b) for i, a in enumerate(order) for b in order[:i]]


def read_calibration(workdir: epath.PathLike) -> dict[str, Any]:
  """Judge -> its errors, of calibration.json; nothing where there is none.

  Raises:
    ValueError: the file is no calibration.
  """
  path = workdir / CALIBRATION
  if not path.is_file():
    return {}
  found = json.loads(path.read_text())
  if not isinstance(found, dict) or "judges" not in found:
    raise ValueError(f"{path} is no calibration: it has no 'judges'")
  return found["judges"]


def _known_errors(table: pd.DataFrame, judges) -> dict[str, Any] | None:
  """The errors of the one judge of a table, if they have been measured."""
  own = table["evaluator"].unique().tolist()
  return judges.get(own[0]) if len(own) == 1 else None


def _calibrated(table: pd.DataFrame, judges, seed: int) -> dict[str, Any]:
  known = _known_errors(table, judges)
  if known is not None:
    corrected = metrics.corrected(table, known, seed=seed)
    return {"calibration": "calibrated", "corrected": corrected}
  exact = table["evaluator"].str.startswith(EXACT).all()
  return {"calibration": "exact" if exact else "uncalibrated", "corrected": None}


def _compared(a: pd.DataFrame, b: pd.DataFrame, judges, seed: int) -> dict[str, Any]:
  """`a` against `b`: FDR, QVR, and the FDR of each skill."""
  errors = [_known_errors(table, judges) for table in (a, b)]
  out: dict[str, Any] = {
    rate: metrics.compare(a, b, rate, seed=seed) for rate in ("fdr", "qvr")
  }
  # Two judges err apart, and one's errors say nothing of the other's.
  same = errors[0] is not None and errors[0] is errors[1]
  out["corrected_fdr_ratio"] = (
    metrics.corrected_ratio(a, b, errors[0], seed=seed) if same else None
  )
  known = "skills" in a and "skills" in b
  return out | {"skills": metrics.compare_skills(a, b) if known else None}


def embed_distinct(embedder: Embedder, texts: list[str]) -> np.ndarray | None:
  """[N, E] float32 of N texts, each distinct one embedded once; None for no texts."""
  if not texts:
    return None
  distinct = sorted(set(texts))
  parts = [
    embedder.embed(distinct[at : at + _BATCH]) for at in range(0, len(distinct), _BATCH)
  ]
  place = {text: i for i, text in enumerate(distinct)}
  return np.concatenate(parts)[[place[text] for text in texts]]
