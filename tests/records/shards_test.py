"""Shards: what is written comes back, once, in order, whole."""

import dataclasses
import typing

import pandas as pd
import pyarrow.parquet as pq
import pytest
from etils import epath

from fmd_jax import records, types


def record(step=0, image="i", slot=0, **changes):
  values = {
    "run_id": "r",
    "method": "grpo",
    "split": "train",
    "step": step,
    "image_id": image,
    "group_id": f"{step}-{image}",
    "response_index": 0,
    "slot": slot,
    "status": "ok",
    "question": "What is it?",
    "prefix": "what is",
    "answer": "red",
    "grammatical": True,
    "atomic": True,
    "grounded": True,
    "objective": False,
    "valid": False,
    "correct": False,
    "rationale": "",
    "delta_emb": 0.5,
    "delta_ifreq": 0.25,
    "reward": -1.0,
    "response_reward": -1.0,
    "advantage": 0.0,
    "questioner_step": step,
    "answerer": "a",
    "verifier": "v",
    "wall_time": 1.5,
  }
  return types.Record(**(values | changes))


NULLED = record(
  slot=1,
  status="unscored",
  answer=None,
  grammatical=None,
  atomic=None,
  grounded=None,
  objective=None,
  valid=None,
  correct=None,
  delta_emb=None,
  delta_ifreq=None,
  reward=None,
  response_reward=None,
  advantage=None,
)


def write(workdir, rows, step=0, **kwargs):
  return records.write_shard(workdir, "grpo", "train", step, rows, **kwargs)


def test_schema_is_the_record():
  """A column of another name, order or nullability than Record's shows here."""
  hints = typing.get_type_hints(types.Record)
  assert records.SCHEMA.names == [f.name for f in dataclasses.fields(types.Record)]
  for field in records.SCHEMA:
    nullable = type(None) in typing.get_args(hints[field.name])
    assert field.nullable == nullable, field.name


def test_round_trip_with_nulls(tmp_path):
  """Every value and every null; a null written as 0 or NaN would differ in Arrow."""
  path = write(tmp_path, [record(), NULLED])
  assert path.name == "step-000000-host-00000-of-00001.parquet"
  assert [p.name for p in path.parent.iterdir()] == [path.name]
  rows = records.read_table(tmp_path, "grpo").to_pylist()
  assert rows == [record().asdict(), NULLED.asdict()]
  assert pq.read_table(path).schema.metadata[b"fmd_jax_schema"] == b"1"


def test_data_frame_types(tmp_path):
  """Nulls stay nulls: `bool(row.answer)` false, booleans skipped by means."""
  write(tmp_path, [record(), NULLED])
  df = records.read(tmp_path, "grpo")
  assert df["answer"].tolist() == ["red", None]
  assert df["valid"].dtype == pd.BooleanDtype()
  assert df["valid"].mean() == 0.0  # over one row; a null as False gives it over two
  assert df["valid"].count() == 1
  assert df["reward"].isna().tolist() == [False, True]


def test_order_is_step_host_then_as_asked(tmp_path):
  """Sorting by image id, by file time or by text (step 10 before 9) breaks it."""
  write(tmp_path, [record(1000000, "z"), record(1000000, "a")], step=1000000)
  write(tmp_path, [record(999999, "b")], step=999999, host=1, hosts=2)
  write(tmp_path, [record(999999, "c")], step=999999, host=0, hosts=2)
  df = records.read(tmp_path, "grpo")
  assert df["image_id"].tolist() == ["c", "b", "z", "a"]
  assert records.steps(tmp_path, "grpo") == [999999, 1000000]


def test_rerunning_a_step_replaces_it(tmp_path):
  """A row exists once, also when the step ran with more hosts before."""
  write(tmp_path, [record(image="old")])
  write(tmp_path, [record(image="new")])
  assert records.read(tmp_path, "grpo")["image_id"].tolist() == ["new"]
  write(tmp_path, [record(image="a")], host=1, hosts=2)
  write(tmp_path, [record(image="b")], host=0, hosts=2)
  assert records.read(tmp_path, "grpo")["image_id"].tolist() == ["b", "a"]
  write(tmp_path, [record(image="c")])
  assert records.read(tmp_path, "grpo")["image_id"].tolist() == ["c"]


def test_drop_steps(tmp_path):
  """From the given step on, of this method and split only."""
  for step in range(3):
    write(tmp_path, [record(step)], step=step)
  held = record(2, split="heldout")
  records.write_shard(tmp_path, "grpo", "heldout", 2, [held])
  records.drop_steps(tmp_path, "grpo", "train", 1)
  records.drop_steps(tmp_path, "sft", "train", 0)  # nothing there: nothing to do
  assert records.steps(tmp_path, "grpo") == [0]
  assert records.steps(tmp_path, "grpo", "heldout") == [2]


def test_a_failed_write_leaves_the_old_shard(tmp_path, monkeypatch):
  """Killed before the rename: the old rows, nothing half-written, no leftovers."""
  path = write(tmp_path, [record(image="old")])

  def fail(self, target):
    raise OSError("disk full")

  monkeypatch.setattr(type(path), "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    write(tmp_path, [record(image="new")])
  assert records.read(tmp_path, "grpo")["image_id"].tolist() == ["old"]
  assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_leftovers_are_not_read(tmp_path):
  """A temporary file of a killed process, or anybody's notes, are no shards."""
  path = write(tmp_path, [record()])
  (path.parent / f".{path.name}.abc.tmp").write_bytes(b"half")
  (path.parent / "notes.parquet").write_bytes(b"")
  assert len(records.read(tmp_path, "grpo")) == 1


def test_methods_and_missing_ones(tmp_path):
  write(tmp_path, [record()])
  held = record(method="zero_shot", split="heldout")
  records.write_shard(tmp_path, "zero_shot", "heldout", 0, [held])
  assert records.methods(tmp_path) == ["grpo"]
  assert records.methods(tmp_path, "heldout") == ["zero_shot"]
  with pytest.raises(FileNotFoundError, match=r"'sft'.*methods with some: grpo"):
    records.read(tmp_path, "sft")
  # TypeError where annotations are checked at run time.
  with pytest.raises((ValueError, TypeError), match="split"):
    records.read(tmp_path, "grpo", "test")


def test_wrong_records_are_refused(tmp_path):
  """Silently, they would be read as another step's, or as null where none may be."""
  with pytest.raises(ValueError, match="step 3"):
    write(tmp_path, [record(3)], step=4)
  nameless = record()
  object.__setattr__(nameless, "question", None)
  with pytest.raises(ValueError, match="question"):
    write(tmp_path, [nameless])
  assert not (tmp_path / "records").exists()


def test_other_schema_is_refused(tmp_path):
  path = write(tmp_path, [record()])
  table = pq.read_table(path).replace_schema_metadata({"fmd_jax_schema": "99"})
  pq.write_table(table, path)
  with pytest.raises(ValueError, match="schema 99"):
    records.read(tmp_path, "grpo")


def test_images(tmp_path):
  """Written once under a name that cannot leave the folder."""
  image = types.ImageExample("scene-1", b"png")
  path = records.write_image(tmp_path, image)
  assert path.read_bytes() == b"png"
  assert str(path).endswith("images/scene-1.png")
  records.write_image(tmp_path, types.ImageExample("scene-1", b"other"))
  assert path.read_bytes() == b"png"
  with pytest.raises(ValueError, match="file name"):
    records.write_image(tmp_path, types.ImageExample("../x", b""))


def test_two_writers_of_one_name_do_not_meet(tmp_path, monkeypatch):
  """Between a write and its rename another process writes the same file, whole: on
  a shared temporary name the first rename would find nothing.
  """
  path = epath.Path(tmp_path) / "x.parquet"
  rename = type(path).replace

  def interrupted(self, target):
    monkeypatch.undo()
    records.write_parquet(path, pd.DataFrame({"a": [2]}))
    return rename(self, target)

  monkeypatch.setattr(type(path), "replace", interrupted)
  records.write_parquet(path, pd.DataFrame({"a": [1]}))
  assert pd.read_parquet(path)["a"].tolist() == [1]
  assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
