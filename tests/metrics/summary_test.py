"""The summary: every number where it belongs, plain JSON, free of jax, fast."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from fmd_jax import metrics
from tests.metrics.frames import frame, one


def embedded(df):
  n = int(metrics.flags(df)["valid"].sum())
  return np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)


def test_summary_holds_the_parts():
  """Diversity is of valid questions only: over all rows `n` would differ."""
  df = frame(0)
  vectors = embedded(df)
  out = metrics.summarise(df, vectors, common_n=50, resamples=100)
  assert json.loads(json.dumps(out, allow_nan=False)) == out
  valid = df[metrics.flags(df)["valid"]]
  assert (out["questions"], out["images"]) == (len(df), 40)
  assert out["sd"]["n"] == out["ld"]["n"] == out["fdr"]["n"] == len(valid)
  assert out["fdr"] == metrics.rates(df, resamples=100)["fdr"]._asdict()
  assert out["sd"]["vendi"] == metrics.vendi(vectors)
  assert out["ld"]["ld"] == metrics.prefix_entropy(valid["question"].tolist())["ld"]
  assert out["failures"]["rows"] == out["fdr"]["count"]
  assert out["failures"]["distinct"] == metrics.distinct_failures(df)
  assert out["skills"]["coverage"] == metrics.skill_coverage(valid["skills"].tolist())
  assert out["skills"]["count"] == 5
  assert all(own["n"] > 100 for own in out["skills"]["table"])
  for part in ("sd", "ld", "skills"):
    assert out[part]["common_n"] == 50
    assert out[part]["rarefied"] is not None
  assert out["sd"]["rarefied"] < out["sd"]["vendi"]
  assert out == metrics.summarise(df, vectors, common_n=50, resamples=100)
  other = metrics.summarise(df, vectors, common_n=50, resamples=100, seed=1)
  assert other["sd"]["rarefied"] != out["sd"]["rarefied"]
  assert other["fdr"]["low"] != out["fdr"]["low"]


def test_summary_without_the_optional_parts():
  df = frame(1).drop(columns="skills")
  out = metrics.summarise(df, resamples=20)
  assert out["sd"] is None
  assert out["skills"] is None
  assert out["ld"]["rarefied"] is None
  assert out["ld"]["common_n"] is None


@pytest.mark.parametrize(
  "rows",
  [
    [],
    [one(status="unscored", valid=None, correct=None)],
    [one(valid=False, correct=None)],
    [one()],
  ],
)
def test_summary_of_almost_nothing(rows):
  """No NaN, no crash: JSON with nulls."""
  df = pd.DataFrame(rows, columns=list(one()))
  df["skills"] = [["a"] if row["valid"] else None for row in rows]
  out = metrics.summarise(df, np.ones((sum(bool(r["valid"]) for r in rows), 4)))
  json.dumps(out, allow_nan=False)
  assert out["questions"] == len(rows)


def test_misaligned_embeddings_are_refused():
  """Embeddings of all rows instead of the valid ones."""
  df = frame(2)
  with pytest.raises(ValueError, match="valid rows"):
    metrics.summarise(df, np.ones((len(df), 4)))


def test_no_jax_is_imported():
  code = "import sys, fmd_jax.metrics; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_speed():
  """60 000 rows, 3000 images, 384 dimensions: seconds; an N x N kernel would need
  18 GB, a bootstrap over rows in Python minutes.
  """
  generator = np.random.default_rng(0)
  n = 60_000
  df = pd.DataFrame(
    {
      "image_id": generator.integers(0, 3000, n).astype(str),
      "status": "ok",
      "question": [f"what w{i} is" for i in generator.integers(0, 500, n)],
      "valid": generator.random(n) < 0.8,
      "correct": generator.random(n) < 0.6,
    }
  )
  vectors = generator.normal(size=(int(df["valid"].sum()), 384)).astype(np.float32)
  start = time.process_time()  # not of the wall: the machine may be shared
  metrics.summarise(df, vectors)
  assert time.process_time() - start < 40
