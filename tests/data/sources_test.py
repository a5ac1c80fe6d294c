import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from fmd_jax import data
from fmd_jax.pixels import to_rgb
from fmd_jax.world import png


def pixels(example):
  return np.asarray(Image.open(io.BytesIO(example.png)))


def save(path, array, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(array, np.uint8)).save(path, **options)


def test_testbed_scenes_depend_on_seed_split_and_index_only():
  # Wrong: a generator carried from scene to scene, or `seed + index`, which makes
  # scene 1 of seed 0 scene 0 of seed 1.
  small = data.open("testbed://?split=train&size=4&seed=0")
  large = data.open("testbed://?split=train&size=9&seed=0")
  assert [small[i] for i in (3, 1)] == [large[i] for i in (3, 1)]
  others = [
    data.open(f"testbed://?split={split}&size=4&seed={seed}")
    for split, seed in (("train", 0), ("train", 1), ("heldout", 0))
  ]
  scenes = [png.scene_of(source[i].png) for source in others for i in range(4)]
  ids = [source[i].image_id for source in others for i in range(4)]
  assert len(set(scenes)) == len(set(ids)) == 12
  assert pixels(small[0]).shape == (112, 112, 3)
  with pytest.raises(IndexError):
    small[4]
  assert small.name == "testbed://?split=train&size=4&seed=0"


def test_a_source_can_be_iterated():
  # Wrong: no IndexError at the end, and `for` never stops.
  assert len(list(data.open("testbed://?size=3"))) == 3


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ("coco://train", "folder://"),
    ("/photos", "folder://"),
    ("testbed://?sise=3", "'sise'"),
    ("testbed://?size=many", "'many'"),
    ("testbed://?size=0", "no scenes"),
    ("testbed://?split=test", "heldout"),
    ("testbed://?size", "key=value"),
    ("testbed://here?size=2", "'here'"),
    ("folder:///no/such/folder", "/no/such/folder"),
    ("folder://?limit=3", "no folder"),
  ],
)
def test_a_bad_spec_gets_one_line_that_names_it(spec, says):
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    data.open(spec)
  message = str(error.value)
  assert says in message and spec in message and "\n" not in message


def test_folder_reads_real_photographs():
  # scikit-image ships photographs, diagrams, and arrays that are no pictures.
  import skimage

  root = pathlib.Path(skimage.__file__).parent / "data"
  source = data.open(f"folder://{root}")
  assert len(source) >= 5
  for example in source:
    assert example.png.startswith(b"\x89PNG")
    array = pixels(example)
    assert array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    assert array.shape[0] * array.shape[1] <= 1024 * 1024
  assert any(s.path == "README.txt" for s in source.skipped)


def test_broken_files_are_skipped_and_named(tmp_path):
  # Wrong: opened but not decoded (the truncated file passes), or dropped in silence.
  noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
  save(tmp_path / "b" / "good.png", noise)
  save(tmp_path / "a.jpg", noise)
  (tmp_path / "cut.png").write_bytes((tmp_path / "b" / "good.png").read_bytes()[:2000])
  (tmp_path / "text.jpg").write_text("not a picture")
  (tmp_path / "empty.png").touch()
  (tmp_path / ".hidden.png").write_text("not looked at")
  source = data.open(f"folder://{tmp_path}")
  assert [e.image_id[:-9] for e in source] == ["a", "b_good"]
  assert sorted(s.path for s in source.skipped) == ["cut.png", "empty.png", "text.jpg"]
  assert all(s.reason and "\n" not in s.reason for s in source.skipped)


def test_folder_without_a_picture_names_what_it_tried(tmp_path):
  (tmp_path / "notes.txt").write_text("hello")
  with pytest.raises(ValueError, match=r"no picture .*notes\.txt"):
    data.open(f"folder://{tmp_path}")


def test_limit_counts_readable_pictures(tmp_path):
  # Wrong: the limit cuts the list of files, and a broken one costs a picture.
  (tmp_path / "0.png").write_text("broken")
  for i in range(1, 5):
    save(tmp_path / f"{i}.png", np.full((8, 8, 3), i))
  source = data.open(f"folder://{tmp_path}?limit=2")
  assert [int(pixels(e)[0, 0, 0]) for e in source] == [1, 2]


def test_ids_are_safe_and_unique(tmp_path):
  # Wrong: names with / and blanks replaced and nothing else; these two collide.
  for name in ("a/b.png", "a_b.png", "ü ö/x.y.png", "a/b.jpg"):
    save(tmp_path / name, np.zeros((8, 8, 3)))
  ids = [e.image_id for e in data.open(f"folder://{tmp_path}")]
  assert len(set(ids)) == 4
  assert all(i.replace("-", "").replace("_", "").isalnum() and i.isascii() for i in ids)


def test_pictures_are_read_upright_on_white_and_in_eight_bits(tmp_path):
  red_left = np.zeros((4, 6, 3), np.uint8)
  red_left[:, :3, 0] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned: a reader rotates by 90 degrees
  Image.fromarray(red_left).save(tmp_path / "turned.png", exif=exif)
  # Wrong: EXIF ignored gives (4, 6, 3) with red on the left.
  turned = np.asarray(to_rgb((tmp_path / "turned.png").read_bytes()))
  assert turned.shape == (6, 4, 3)
  assert turned[0, 0, 0] == 255 and turned[5, 0, 0] == 0

  # Wrong: convert("RGB") shows what is stored under transparency, here black.
  save(tmp_path / "clear.png", np.zeros((4, 4, 4)))
  assert (np.asarray(to_rgb((tmp_path / "clear.png").read_bytes())) == 255).all()

  # Wrong: clipping turns 40 000 of 65 535 into white.
  deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
  deep.save(tmp_path / "deep.png")
  assert (
    np.asarray(to_rgb((tmp_path / "deep.png").read_bytes())) == round(40_000 / 257)
  ).all()

  save(tmp_path / "grey.png", np.full((4, 4), 7))
  assert np.asarray(to_rgb((tmp_path / "grey.png").read_bytes())).shape == (4, 4, 3)


def test_large_pictures_are_scaled_down_in_proportion(tmp_path):
  save(tmp_path / "wide.png", np.zeros((100, 400, 3)))
  small = pixels(data.open(f"folder://{tmp_path}?max_pixels=10000")[0])
  assert small.shape == (50, 200, 3)
  assert pixels(data.open(f"folder://{tmp_path}?max_pixels=0")[0]).shape[1] == 400
