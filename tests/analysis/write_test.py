"""All analyses of a small run, and of two together."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from fmd_jax import analysis, taxonomy
from fmd_jax.analysis import dynamics, figures
from tests.analysis.tables import rows
from tests.taxonomy import build_test, workdirs


def embed(texts):
  vectors = np.stack([np.bincount([*t.encode()], minlength=256) for t in texts])
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "run"
  return workdirs.make(folder, images=6, per_image=40)


def read(folder):
  index = json.loads((folder / "index.json").read_text())
  for entry in index:
    files = [*entry["figures"].values(), *filter(None, [entry["csv"]])]
    assert all((folder / file).is_file() for file in files)
    for file in entry["figures"].values():
      ET.fromstring((folder / file).read_text())
  return {entry["name"]: entry for entry in index}


def test_a_run_without_taxonomy_uses_the_oracles_skills(run):
  index = read(analysis.write([run], embed, {}))
  what = " ".join(entry["what"] for entry in index.values())
  for number in range(1, 10):
    assert str(number) in what
  for name in ("overview", "failure_curve", "density", "one_image"):
    assert index[name]["csv"], name
    assert len(pd.read_csv(run / "analysis" / index[name]["csv"]))
  # One answerer and no records: said, not faked.
  assert index["answerers"]["csv"] is None and index["answerers"]["note"]
  assert index["hacking"]["csv"] is None
  table = pd.read_csv(run / "analysis" / "recovery.csv")
  assert table.loc[0, "ami"] == 1


def test_skills_of_the_taxonomy_and_runs_beside_each_other(run, tmp_path, monkeypatch):
  monkeypatch.setattr("fmd_jax.taxonomy.topics.FEWEST", 10_000)
  one = workdirs.make(tmp_path / "one", images=5, per_image=120)
  two = workdirs.make(tmp_path / "two", images=5, per_image=120, seed=2)
  for folder, answerer in ((one, "small@1"), (two, "large@1")):
    manifest = {"models": {"answerer": answerer, "questioner": "q@1"}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
  taxonomy.build([one, two], build_test.models(), build_test.SETTINGS)
  index = read(analysis.write([one, two], embed, {}))
  table = pd.read_csv(one / "analysis" / "overview.csv")
  assert set(table["arm"]) == {
    f"{run} {method}" for run in ("one", "two") for method in ("zero_shot", "grpo")
  }
  assert set(table["answerer"]) == {"small@1", "large@1"}
  both = pd.read_csv(one / "analysis" / index["answerers"]["csv"])
  assert set(both["answerer"]) == {"small@1", "large@1"}
  labels = pd.read_parquet(one / "taxonomy" / "skills.parquet")["skill"]
  ranked = pd.read_csv(one / "analysis" / "skill_ranking.csv")
  assert set(ranked["skill"]) <= set(labels)


def test_a_hostile_label_is_text_in_a_figure():
  # Wrong: matplotlib reads $…$ as a formula and fails, or the SVG is no XML.
  label = "</text><script>alert(1)</script> $\\frac{$ & \u202e\0"
  lines = [(f"i{k % 5}", f"q {k}", [label], k % 2, k) for k in range(60)]
  table = rows(lines)
  svg = figures.density(dynamics.density(table, "skills"))
  ET.fromstring(svg)
  assert "<script" not in svg
  ranked = pd.DataFrame(
    {"skill": [label], "word": "$", "fdr": 0.5, "low": 0.4, "high": None}
  )
  ET.fromstring(figures.modes(ranked))
