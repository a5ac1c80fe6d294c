"""Immutable Parquet shards, one for each step and host."""

import io
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from fmd_jax.records.files import write_atomic
from fmd_jax.records.schema import SCHEMA, SHARD_NAME, shard_folder, shard_name
from fmd_jax.types import ImageExample, Record, Split


def write_parquet(path: epath.PathLike, table: pa.Table | pd.DataFrame) -> None:
  """Writes one Parquet file, whole or not at all."""
  if not isinstance(table, pa.Table):
    table = pa.Table.from_pandas(table, preserve_index=False)
  buffer = io.BytesIO()
  pq.write_table(table, buffer)
  write_atomic(path, buffer.getvalue())


def write_shard(
  workdir: epath.PathLike,
  method: str,
  split: Split,
  step: int,
  records: Sequence[Record],
  *,
  host: int = 0,
  hosts: int = 1,
) -> epath.Path:
  """Writes what one host asked in one step; writing it again replaces it.

  Args:
    workdir: of the run.
    method: e.g. "grpo".
    split: "train" or "heldout".
    step: all records are of this step.
    records: in the order (image, response, slot) in which they were asked.
    host: this process.
    hosts: how many there are. Host 0 removes shards that an earlier attempt at
      this step left with another number of hosts.

  Returns:
    The path of the shard.

  Raises:
    ValueError: for a record of another method, split or step, or with a null or a
      wrong type where the schema allows none.
  """
  for record in records:
    if (record.method, record.split, record.step) != (method, split, step):
      raise ValueError(
        f"a record of {record.method}/{record.split}/step {record.step} does not "
        f"belong in the shard of {method}/{split}/step {step}"
      )
  folder = shard_folder(workdir, method, split)
  path = folder / shard_name(step, host, hosts)
  rows = [record.asdict() for record in records]
  write_parquet(path, pa.Table.from_pylist(rows, schema=SCHEMA))
  if host == 0:
    _remove(folder, lambda s, of: s == step and of != hosts)
  return path


def drop_steps(
  workdir: epath.PathLike, method: str, split: Split, from_step: int
) -> None:
  """Removes the shards of `from_step` and later, which a resumed run asks again."""
  _remove(shard_folder(workdir, method, split), lambda s, of: s >= from_step)


def _remove(folder: epath.Path, condition) -> None:
  if not folder.exists():
    return
  for path in folder.iterdir():
    match = SHARD_NAME.fullmatch(path.name)
    if match and condition(int(match[1]), int(match[3])):
      path.unlink(missing_ok=True)


def write_image(workdir: epath.PathLike, image: ImageExample) -> epath.Path:
  """Keeps `images/<image_id>.png`, once, as the models saw it."""
  if "/" in image.image_id or image.image_id in ("", ".", ".."):
    raise ValueError(f"image_id {image.image_id!r} is not a file name")
  path = epath.Path(workdir) / "images" / f"{image.image_id}.png"
  if not path.exists():
    write_atomic(path, image.png)
  return path
