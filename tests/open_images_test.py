"""The images of a run: the same ones on all its processes, or it does not start."""

import pytest
from PIL import Image

from fmd_jax import discover
from tests.runs import small_config


def test_processes_that_see_other_images_do_not_start(tmp_path, monkeypatch):
  # Wrong: each permutes its own list, and one image is asked about twice in a step.
  Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
  (tmp_path / "b.png").write_text("cut off")
  config = small_config()
  config.data.train = f"folder://{tmp_path}"
  sources, images = discover.open_images(config)
  assert len(sources["train"]) == images["train"]["images"] == 1
  assert images["train"]["skipped"] == 1 and images["heldout"]["skipped"] == 0

  def together(make):
    own = make()
    other = own | {"train": own["train"] | {"images": 2, "skipped": 0}}
    return [own, other]

  monkeypatch.setattr(discover.hosts, "together", together)
  with pytest.raises(ValueError, match="process 1 sees other images than process 0"):
    discover.open_images(config)
