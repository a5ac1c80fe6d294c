"""tfds:// on a COCO-shaped data set that the real builder has written."""

import io
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fmd_jax import data
from fmd_jax.pixels import to_rgb
from tests.data import coco

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  coco.prepare(folder)
  return folder


def number(image_id):
  """`coco_train_000000000007-41aa1dab` -> 7."""
  return int(image_id.split("_")[-1].split("-")[0])


def test_pictures_are_those_that_were_written(data_dir):
  source = data.open(f"tfds://coco/2017?split=train&data_dir={data_dir}")
  # Wrong: the array_record's shuffled order taken for the file names'.
  for example in source:
    wanted = to_rgb(coco.picture("train", number(example.image_id)))
    got = Image.open(io.BytesIO(example.png))
    np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
  ids = [example.image_id for example in source]
  assert sorted(map(number, ids)) == [i for i in range(12) if i != coco.BROKEN]
  heldout = data.open(f"tfds://coco/2017:1.1.0?split=validation&data_dir={data_dir}")
  # Both have a 000000000000.jpg, and one folder images/.
  assert len(heldout) == 3 and not {e.image_id for e in heldout} & set(ids)


def test_a_broken_picture_is_left_out_counted_and_named(data_dir):
  source = data.open(f"tfds://coco/2017?data_dir={data_dir}")
  (skipped,) = source.skipped
  assert skipped.path.startswith("coco/2017/1.1.0:train[") and skipped.reason
  said = data.describe(source)
  assert (said["images"], said["skipped"]) == (11, 1)
  assert said["skipped_named"] == [f"{skipped.path}: {skipped.reason}"]
  assert json.loads(json.dumps(said)) == said


def test_a_seed_draws_the_same_pictures_everywhere(data_dir):
  # Wrong: the first ones whatever the seed; or the broken one costs a picture.
  def ids(query):
    return [
      e.image_id for e in data.open(f"tfds://coco/2017?{query}&data_dir={data_dir}")
    ]

  assert ids("limit=5&seed=0") == ids("limit=5&seed=0") != ids("limit=5&seed=1")
  assert ids("limit=5&seed=0") == ids("seed=0")[:5]
  assert ids("limit=5") == ids("split=train")[:5]
  assert all(len(ids(f"limit=11&seed={seed}")) == 11 for seed in range(3))
  assert len(ids("split=train[:50%25]%2Bvalidation")) in (8, 9)


def test_hosts_see_their_parts_of_one_order(data_dir):
  # Wrong: each host reads files of its own, and the number of hosts changes the order.
  spec = f"tfds://coco/2017?limit=8&seed=3&data_dir={data_dir}"

  def steps(host, hosts):
    found = data.batches(data.open(spec), 4 // hosts, 0, host=host, hosts=hosts)
    return list(itertools.islice(found, 4))

  alone = steps(0, 1)
  for hosts in (2, 4):
    parts = [steps(host, hosts) for host in range(hosts)]
    together = [sum(batch, []) for batch in zip(*parts, strict=True)]
    assert together == alone


def test_nothing_heavy_is_loaded(data_dir):
  code = (
    "import sys; from fmd_jax import data; "
    f"data.open('tfds://coco/2017?data_dir={data_dir}')[0]; "
    "print({'tensorflow', 'torch', 'jax'} & set(sys.modules))"
  )
  run = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {"TFDS_DATA_DIR": "/nowhere"},
  )
  assert run.stdout.strip() == "set()", run.stderr


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ("tfds://coco/2018?", "tfds build coco/2018 --file_format=array_record"),
    ("tfds://coco/2017:9.9.9?", "no version 9.9.9 of coco/2017; only 1.1.0"),
    ("tfds://coco/2017?split=test", "'test'; there are train, validation"),
    ("tfds://coco/2017?split=train[:x]", "train[:x]"),
    ("tfds://coco/2017?image=objects", "'objects' is no picture; say image=KEY"),
    ("tfds://coco/2017?limit=some", "'some'"),
  ],
)
def test_a_bad_spec_gets_one_line_with_the_cure(data_dir, spec, says):
  spec += f"&data_dir={data_dir}" if spec[-1] != "?" else f"data_dir={data_dir}"
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    data.open(spec)
  message = str(error.value)
  assert says in message and spec in message and "\n" not in message


def test_damaged_files_are_named(data_dir, tmp_path):
  # Wrong: array_record's own RuntimeError, half way through a run.
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  (file,) = tmp_path.rglob("*train*array_record*")
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 255
  for damaged in (content, content[: len(content) // 2], None):
    file.unlink() if damaged is None else file.write_bytes(damaged)
    with pytest.raises(ValueError, match=str(tmp_path)):
      data.open(f"tfds://coco/2017?data_dir={tmp_path}")


def test_other_file_formats_get_the_command_that_converts(data_dir, tmp_path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  (info,) = tmp_path.rglob("dataset_info.json")
  said = json.loads(info.read_text())
  said["fileFormat"] = "tfrecord"
  info.write_text(json.dumps(said))
  with pytest.raises(ValueError, match="tfds convert_format .*array_record"):
    data.open(f"tfds://coco/2017?data_dir={tmp_path}")
