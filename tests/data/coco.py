"""A data set in the shape of TFDS's coco/2017, small, written without TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZES = {"train": 12, "validation": 3}
BROKEN = 5  # of train


def picture(split, index):
  seed = (index, list(SIZES).index(split))
  array = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "JPEG")
  return buffer.getvalue()


class Coco(tfds.core.GeneratorBasedBuilder):
  code_path = None  # only looks for checksums of downloads, by a package of its own
  VERSION = tfds.core.Version("1.1.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2017")]

  def _info(self):
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "image/id": np.int64,
      "objects": tfds.features.Sequence(
        {
          "area": np.int64,
          "bbox": tfds.features.BBoxFeature(),
          "id": np.int64,
          "is_crowd": np.bool_,
          "label": tfds.features.ClassLabel(num_classes=80),
        }
      ),
    }
    features = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SIZES}

  def _generate_examples(self, split="train"):
    for i in range(SIZES[split]):
      content = picture(split, i)
      broken = split == "train" and i == BROKEN
      box = tfds.features.BBox(0.0, 0.0, 0.5, 0.5)
      yield (
        i,
        {
          "image": io.BytesIO(content[:200] if broken else content),
          "image/filename": f"{i:012d}.jpg",
          "image/id": i,
          "objects": [{"area": 3, "bbox": box, "id": 1, "is_crowd": False, "label": 2}],
        },
      )


def prepare(folder, file_format="array_record"):
  Coco(data_dir=folder, file_format=file_format, config="2017").download_and_prepare()
