"""tfds://: a prepared TensorFlow data set, read without TensorFlow.

tfds://coco/2017?split=train&limit=1000&seed=0&data_dir=/data/tfds
"""

import os

from etils import epath

from fmd_jax.data.options import parse_options
from fmd_jax.data.pictures import OPTIONS, Pictures, Raw

_PREPARE = (
  "prepare it once, where TensorFlow is installed: "
  "`pip install tensorflow tensorflow-datasets array_record importlib_resources`, then "
  "`tfds build {name} --file_format=array_record --data_dir={data_dir}`"
)


def open_tfds(location: str, query: str) -> Pictures[int]:
  """The pictures of a data set, as `tfds build` has written it.

  `location` is `name[/config][:version]`, the newest version unless told. Files must
  be array_record, which allow any picture to be read by itself. Options, beside those
  of all pictures: `split`, also as `train[:10%]`; `data_dir` (unless told
  $TFDS_DATA_DIR, else ~/tensorflow_datasets); `image`, the feature that is the picture.
  """
  own = {"split": "train", "data_dir": "", "image": "image"}
  options = parse_options(query, OPTIONS | own)
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      f"tfds:// needs another package: pip install tensorflow-datasets array_record "
      f"({error})"
    ) from None
  folder = _prepared(location, options["data_dir"])
  builder = tfds.builder_from_directory(folder)
  image, split = options["image"], options["split"]
  features = builder.info.features
  if image not in features or not isinstance(features[image], tfds.features.Image):
    pictures = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    raise ValueError(
      f"feature {image!r} is no picture; say image=KEY, one of: "
      f"{', '.join(pictures) or 'none'}"
    )
  if {part.partition("[")[0] for part in split.split("+")} - set(builder.info.splits):
    there = ", ".join(builder.info.splits)
    raise ValueError(f"there is no split {split!r}; there are {there}")
  if builder.info.file_format.value != "array_record":
    raise ValueError(
      f"its files are {builder.info.file_format.value}, not array_record: `tfds "
      f"convert_format --root_data_dir={folder} --out_file_format=array_record "
      "--out_path=DIR` writes them anew"
    )
  # Decoded by us, as pictures of other sources are, and only when they are used.
  decoders = {image: tfds.decode.SkipDecoding()}
  try:
    records = builder.as_data_source(split=split, decoders=decoders)
  except ValueError as error:
    raise ValueError(str(error).splitlines()[0]) from None

  def label(index: int) -> str:
    return f"{builder.info.full_name}:{split}[{index}]"

  def read(index: int) -> Raw:
    try:
      record = records[index]
    except RuntimeError as error:  # array_record's, of a damaged file
      raise ValueError(f"not readable: {error}") from None
    # COCO's own name of the file, where there is one, is what a user looks for.
    own = record.get("image/filename", b"")
    stem = own.decode().rpartition(".")[0] or f"{index:06d}"
    name = f"{builder.info.name}_{split}_{stem}.image"
    return Raw(name, record[image])

  name = f"tfds://{location}" + (f"?{query}" if query else "")
  return Pictures(name, range(len(records)), read, label, options)


def _prepared(location: str, data_dir: str) -> str:
  """The folder of one version of a data set."""
  data_dir = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  name, _, version = location.partition(":")
  root = epath.Path(data_dir).expanduser() / name
  found = sorted(
    (path.parent for path in root.glob("*/dataset_info.json")),
    key=lambda path: [int(n) if n.isdecimal() else -1 for n in path.name.split(".")],
  )
  if not name or not found:
    raise FileNotFoundError(
      f"there is no prepared {name or 'data set'} in {data_dir}; "
      + _PREPARE.format(name=name or "coco/2017", data_dir=data_dir)
    )
  if version and version not in [path.name for path in found]:
    there = ", ".join(path.name for path in found)
    raise FileNotFoundError(f"there is no version {version} of {name}; only {there}")
  return str(root / version if version else found[-1])
