"""hf://: a folder of Hugging Face `datasets`, as saved to disk or as Parquet files."""

import pathlib
from collections.abc import Sequence

from fmd_jax.data.options import parse_options
from fmd_jax.data.pictures import OPTIONS, Pictures, Raw


def open_huggingface(location: str, query: str) -> Pictures[int]:
  """The pictures of one split of a folder that holds a data set.

  Options, beside those of all pictures: `split` (may be left out where there is one
  only), `image`, the column of the pictures.
  """
  options = parse_options(query, OPTIONS | {"split": "", "image": "image"})
  rows = undecoded(load_rows(pathlib.Path(location), options["split"]))
  image = options["image"]
  if image not in rows.features or not is_picture(rows.features[image]):
    there = [c for c, feature in rows.features.items() if is_picture(feature)]
    raise ValueError(
      f"column {image!r} is no picture; say image=COLUMN, one of: "
      f"{', '.join(there) or 'none'}"
    )
  rows = rows.select_columns([image])

  def label(index: int) -> str:
    return f"row {index}"

  def read(index: int) -> Raw:
    return picture(rows[index][image], f"{index:06d}", pathlib.Path(location))

  name = f"hf://{location}" + (f"?{query}" if query else "")
  return Pictures(name, range(len(rows)), read, label, options)


def load_rows(folder: pathlib.Path, split: str):
  """A `datasets.Dataset` of a folder, memory-mapped.

  Args:
    folder: what `save_to_disk` wrote, or one with Parquet files, whose names begin with
      their split (`train-00000-of-00001.parquet`) as on the hub; these are copied once
      to the cache of `datasets`.
    split: "" where there is one only.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no data set, or not this split.
  """
  datasets = _package()
  if not folder.is_dir():
    raise FileNotFoundError(f"there is no folder {str(folder)!r}")
  if (folder / "dataset_dict.json").is_file():
    return _of_split(datasets.load_from_disk(str(folder)), split)
  if (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file():
    rows = datasets.load_from_disk(str(folder))
    return _of_split({str(rows.split or "the only one"): rows}, split)
  files: dict[str, list[pathlib.Path]] = {}
  for path in sorted(folder.rglob("*.parquet")):
    files.setdefault(path.stem.partition("-")[0], []).append(path)
  if not files:
    raise ValueError("it holds neither a saved data set nor Parquet files")
  return load_parquet(_of_split(files, split))


def load_parquet(paths: Sequence[pathlib.Path]):
  """A `datasets.Dataset` of Parquet files of the same columns, one after another."""
  datasets = _package()
  return datasets.Dataset.from_parquet([str(path) for path in paths])


def _package():
  try:
    import datasets
  except ImportError as error:
    raise ValueError(
      f"this needs another package: pip install datasets ({error})"
    ) from None
  return datasets


def _of_split(by_split: dict, split: str):
  if not split and len(by_split) == 1:
    return next(iter(by_split.values()))
  if split not in by_split:
    raise ValueError(f"there is no split {split!r}; there are {', '.join(by_split)}")
  return by_split[split]


def undecoded(rows):
  """The same rows, pictures as their files' bytes."""
  datasets = _package()
  for column, feature in rows.features.items():
    if isinstance(feature, datasets.Image):
      rows = rows.cast_column(column, datasets.Image(decode=False))
  return rows


def is_picture(feature) -> bool:
  datasets = _package()
  binary = isinstance(feature, datasets.Value) and "binary" in feature.dtype
  return binary or isinstance(feature, datasets.Image)


def picture(value, default: str, folder: pathlib.Path) -> Raw:
  """A picture of an undecoded row.

  Args:
    value: bytes, or `{"bytes", "path"}` of which one may be missing.
    default: its name, where it has none.
    folder: what a relative path starts from.

  Raises:
    ValueError: there is nothing.
  """
  if isinstance(value, bytes):
    return Raw(default, value)
  if value and value["bytes"]:
    own = pathlib.PurePath(value["path"] or default).name
    return Raw(default if own == default else f"{default}_{own}", value["bytes"])
  if value and value["path"]:
    return Raw(f"{default}_{value['path']}", (folder / value["path"]).read_bytes())
  raise ValueError("the row has no picture")
