"""jsonl:// and hf://, on files that JSON and `datasets` themselves have written."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from fmd_jax import data


def png(value):
  buffer = io.BytesIO()
  Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
  return buffer.getvalue()


def values(source):
  return [int(np.asarray(Image.open(io.BytesIO(e.png)))[0, 0, 0]) for e in source]


def save_list(folder, *lines):
  file = folder / "list.jsonl"
  lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
  file.write_text("\n".join(lines) + "\n", "utf-8")
  return file


@pytest.fixture
def photos(tmp_path):
  (tmp_path / "a").mkdir()
  for i in range(5):
    (tmp_path / "a" / f"{i}.png").write_bytes(png(i))
  return tmp_path


def test_jsonl_reads_the_pictures_in_order_under_their_ids(photos):
  absolute = str(photos / "a" / "1.png")
  file = save_list(
    photos,
    {"image": "a/3.png", "id": "cat/1 ü", "label": 7},
    {"image": absolute, "id": 12},
    "",
    {"image": "a/0.png"},
  )
  source = data.open(f"jsonl://{file}")
  # Wrong: relative to where the program was started, or sorted by path.
  assert values(source) == [3, 1, 0] and not source.skipped
  ids = [e.image_id for e in source]
  assert [i[:-9] for i in ids] == ["cat_1", "12", "a_0"]
  assert all(i.isascii() and "/" not in i for i in ids)


def test_jsonl_names_the_lines_it_leaves_out(photos):
  (photos / "a" / "bad.png").write_bytes(png(0)[:40])
  file = save_list(
    photos,
    {"image": "a/1.png"},
    "{not json",
    [1],
    {"picture": "a/2.png"},
    {"image": "a/1.png"},
    {"image": "a/none.png"},
    {"image": "a/bad.png"},
    {"image": "a/4.png"},
  )
  source = data.open(f"jsonl://{file}")
  assert values(source) == [1, 4]
  named = {s.path.partition(":")[0]: s.reason for s in source.skipped}
  assert list(named) == [f"line {i}" for i in (2, 3, 4, 5, 6, 7)]
  assert "image=KEY" in named["line 4"] and "'picture'" in named["line 4"]
  assert "line 1" in named["line 5"]


def test_jsonl_keys_can_have_other_names(photos):
  file = save_list(photos, {"file": "a/2.png", "key": "two"}, {"file": "a/4.png"})
  source = data.open(f"jsonl://{file}?image=file&id=key&limit=1")
  assert values(source) == [2] and source[0].image_id.startswith("two-")
  with pytest.raises(ValueError, match=r"holds no picture .*'file'.*image=KEY"):
    data.open(f"jsonl://{file}")


def test_pictures_of_one_name_keep_apart(tmp_path):
  # Wrong: a digest of the name only; images/ then keeps train's for both.
  sources = []
  for folder, value in (("train", 1), ("heldout", 2)):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "cat.png").write_bytes(png(value))
    sources.append(data.open(f"folder://{tmp_path / folder}"))
  assert sources[0][0].image_id != sources[1][0].image_id


def test_a_seed_draws_from_every_source(photos):
  everything = data.open(f"folder://{photos}/a")
  assert values(everything) == [0, 1, 2, 3, 4]
  drawn = [values(data.open(f"folder://{photos}/a?limit=3&seed={s}")) for s in range(9)]
  assert len({tuple(d) for d in drawn}) > 4
  assert all(len(set(d)) == 3 for d in drawn)


@pytest.fixture(scope="module")
def rows():
  cells = [{"bytes": png(i), "path": f"{i}.png"} for i in range(5)]
  cells[3] = {"bytes": png(3)[:40], "path": None}
  kinds = {"image": datasets.Image(), "raw": datasets.Value("binary")}
  features = datasets.Features(kinds | {"n": datasets.Value("int64")})
  columns = {"image": cells, "raw": [png(9 - i) for i in range(5)], "n": range(5)}
  return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp("cache")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))


def saved(rows, folder, how):
  if how == "disk":
    rows.save_to_disk(str(folder))
  elif how == "dict":
    datasets.DatasetDict({"train": rows, "test": rows.select([4])}).save_to_disk(
      str(folder)
    )
  else:
    (folder / "data").mkdir(parents=True)
    rows.select(range(2)).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    rows.select(range(2, 5)).to_parquet(
      folder / "data" / "train-00001-of-00002.parquet"
    )
    rows.select([4]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
  return folder


@pytest.mark.parametrize("how", ["disk", "dict", "parquet"])
def test_a_saved_data_set_is_read_in_order(rows, tmp_path, how):
  folder = saved(rows, tmp_path / "set", how)
  split = "" if how == "disk" else "split=train&"
  source = data.open(f"hf://{folder}?{split}image=image")
  # Wrong: shards in another order, or the broken one is read as a picture.
  assert values(source) == [0, 1, 2, 4]
  assert [s.path for s in source.skipped] == ["row 3"]
  assert len({e.image_id for e in source}) == 4
  binary = data.open(f"hf://{folder}?{split}image=raw")
  assert values(binary) == [9, 8, 7, 6, 5]
  if split:
    assert values(data.open(f"hf://{folder}?split=test")) == [4]
    with pytest.raises(ValueError, match="no split 'val'; there are"):
      data.open(f"hf://{folder}?split=val")
  with pytest.raises(ValueError, match="'n' is no picture; .*one of: image, raw"):
    data.open(f"hf://{folder}?{split}image=n")


def test_a_folder_of_something_else_is_refused(tmp_path):
  with pytest.raises(ValueError, match="neither a saved data set nor Parquet"):
    data.open(f"hf://{tmp_path}")
  with pytest.raises(FileNotFoundError, match="no folder"):
    data.open(f"hf://{tmp_path}/none")
