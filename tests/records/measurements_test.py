"""The measurements file: append-safe, resumable, plain JSON."""

import json

import numpy as np
import pytest

from fmd_jax import records
from fmd_jax.records import measurements


def lines(workdir):
  return [json.loads(x) for x in (workdir / "measurements.jsonl").open()]


def test_rows(tmp_path):
  """Scalars of NumPy become numbers; NaN, which is no JSON, becomes null."""
  out = records.Measurements(tmp_path, "grpo")
  values = {"grpo/kl": np.float32(0.5), "time/n": np.int64(3), "a/b": np.array(2.0)}
  out.write(0, values | {"a/nan": float("nan"), "a/inf": np.float32("inf")})
  assert lines(tmp_path) == [
    {"step": 0, "method": "grpo", "grpo/kl": 0.5, "time/n": 3, "a/b": 2.0}
    | {"a/nan": None, "a/inf": None}
  ]
  with pytest.raises(ValueError, match="family"):
    out.write(1, {"loss": 1.0})
  assert len(lines(tmp_path)) == 1


def test_resume_drops_what_will_be_written_again(tmp_path):
  """Steps 3.. of this method go, the other method stays; appending only would
  leave two rows for step 3.
  """
  for method in ("zero_shot", "grpo"):
    out = records.Measurements(tmp_path, method)
    for step in range(5):
      out.write(step, {"a/b": step})
  with (tmp_path / "measurements.jsonl").open("a") as file:
    file.write('{"step": 5, "meth')  # killed while writing
  out = records.Measurements(tmp_path, "grpo", resume_step=3)
  out.write(3, {"a/b": -1})
  df = records.read_measurements(tmp_path, "grpo")
  assert df["step"].tolist() == [0, 1, 2, 3]
  assert df["a/b"].tolist() == [0, 1, 2, -1]
  assert len(records.read_measurements(tmp_path, "zero_shot")) == 5
  assert len(records.read_measurements(tmp_path)) == 9


def test_starting_afresh_drops_the_method(tmp_path):
  records.Measurements(tmp_path, "grpo").write(7, {"a/b": 1})
  records.Measurements(tmp_path, "grpo")
  assert records.read_measurements(tmp_path).empty
  assert records.read_measurements(tmp_path, "grpo").empty


def test_object_stores_get_whole_files(tmp_path, monkeypatch):
  """They cannot append: the file is written again with all rows."""
  monkeypatch.setattr(measurements, "is_remote", lambda path: True)
  records.Measurements(tmp_path, "zero_shot").write(0, {"a/b": 0})
  out = records.Measurements(tmp_path, "grpo")
  out.write(0, {"a/b": 1})
  out.write(1, {"a/b": 2})
  assert [row["a/b"] for row in lines(tmp_path)] == [0, 1, 2]
