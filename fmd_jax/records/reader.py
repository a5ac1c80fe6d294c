"""Shards back to one table, each row once, in the order it was asked."""

import collections
import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from fmd_jax.records.schema import (
  HELDOUT,
  SCHEMA,
  SCHEMA_VERSION,
  SHARD_NAME,
  shard_folder,
)
from fmd_jax.types import Split


def methods(workdir: epath.PathLike, split: Split = "train") -> list[str]:
  """The methods that have records of this split, sorted."""
  root = epath.Path(workdir) / "records"
  if not root.exists():
    return []
  names = [path.name for path in root.iterdir() if path.is_dir()]
  if split == "heldout":
    return sorted(n.removesuffix(HELDOUT) for n in names if n.endswith(HELDOUT))
  return sorted(n for n in names if not n.endswith(HELDOUT))


def _shards(workdir: epath.PathLike, method: str, split: Split):
  """(step, host, path) of each shard, sorted."""
  folder = shard_folder(workdir, method, split)
  out = []
  for path in folder.iterdir() if folder.exists() else ():
    match = SHARD_NAME.fullmatch(path.name)
    if match:
      out.append((int(match[1]), int(match[2]), path))
  return sorted(out, key=lambda shard: shard[:2])


def steps(workdir: epath.PathLike, method: str, split: Split = "train") -> list[int]:
  """The steps that have records, sorted."""
  return sorted({step for step, _, _ in _shards(workdir, method, split)})


def whole_steps(
  workdir: epath.PathLike, method: str, split: Split = "train"
) -> set[int]:
  """The steps of which every host has written its shard."""
  found: collections.Counter[tuple[int, int]] = collections.Counter()
  folder = shard_folder(workdir, method, split)
  for path in folder.iterdir() if folder.exists() else ():
    match = SHARD_NAME.fullmatch(path.name)
    if match:
      found[int(match[1]), int(match[3])] += 1
  return {step for (step, hosts), n in found.items() if n == hosts}


def read_table(
  workdir: epath.PathLike, method: str, split: Split = "train"
) -> pa.Table:
  """All records of a method, ordered by step, host and place in the shard.

  Within a shard that is (image, response, slot), as the questions were asked.

  Args:
    workdir: of the run.
    method: e.g. "grpo".
    split: "train" (while training) or "heldout" (final policy, unseen images).

  Returns:
    A table with the columns of `fmd_jax.types.Record`.

  Raises:
    FileNotFoundError: when there are none; names the methods that have some.
  """
  shards = _shards(workdir, method, split)
  if not shards:
    present = ", ".join(methods(workdir, split)) or "none"
    raise FileNotFoundError(
      f"no {split} records of {method!r} in {workdir}; methods with some: {present}"
    )
  tables = []
  for _, _, path in shards:
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    version = int((table.schema.metadata or {}).get(b"fmd_jax_schema", b"0"))
    if version != SCHEMA_VERSION:
      raise ValueError(
        f"{path} has records of schema {version}; this version of fmd_jax reads "
        f"{SCHEMA_VERSION}"
      )
    tables.append(_with_all_columns(table))
  return pa.concat_tables(tables)


def _with_all_columns(table: pa.Table) -> pa.Table:
  """The columns of the schema; nullable ones that came after the shard are null."""
  for field in SCHEMA:
    if field.nullable and field.name not in table.column_names:
      table = table.append_column(field, pa.nulls(len(table), field.type))
  return table.select(SCHEMA.names)


def read_parquet(path: epath.PathLike) -> pd.DataFrame:
  """One Parquet file as pandas reads it."""
  return pd.read_parquet(io.BytesIO(epath.Path(path).read_bytes()))


def read(workdir: epath.PathLike, method: str, split: Split = "train") -> pd.DataFrame:
  """`read_table` as a data frame.

  Booleans have pandas' nullable dtype, missing numbers are NaN and a missing
  answer is None.
  """
  table = read_table(workdir, method, split)
  df = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
  for field in SCHEMA:
    if field.nullable and field.type == pa.string():
      # Arrow would leave NaN there, which is true in `if row.answer`.
      df[field.name] = pd.Series(table[field.name].to_pylist(), dtype=object)
  return df
