"""The columns of a record shard, taken from `fmd_jax.types.Record`, and its paths."""

import re
import typing

import pyarrow as pa
from etils import epath

from fmd_jax.types import Record

# Raised when a column changes its meaning or goes; a new nullable column does not.
SCHEMA_VERSION = 1

_ARROW = {
  str: pa.string(),
  int: pa.int64(),
  float: pa.float64(),
  bool: pa.bool_(),
}


def _field(name: str, hint: object) -> pa.Field:
  options = set(typing.get_args(hint)) or {hint}
  nullable = type(None) in options
  options.discard(type(None))
  if all(isinstance(option, str) for option in options):  # Literal["ok", …]
    options = {str}
  (kind,) = options
  return pa.field(name, _ARROW[kind], nullable=nullable)


SCHEMA = pa.schema(
  [_field(name, hint) for name, hint in typing.get_type_hints(Record).items()],
  metadata={"fmd_jax_schema": str(SCHEMA_VERSION)},
)

SHARD_NAME = re.compile(r"step-(\d+)-host-(\d+)-of-(\d+)\.parquet")
HELDOUT = "_heldout"


def shard_folder(workdir: epath.PathLike, method: str, split: str) -> epath.Path:
  """`records/<method>` or `records/<method>_heldout`."""
  if split not in ("train", "heldout"):
    raise ValueError(f"split is {split!r}; it can be 'train' or 'heldout'")
  suffix = HELDOUT if split == "heldout" else ""
  return epath.Path(workdir) / "records" / f"{method}{suffix}"


def shard_name(step: int, host: int, hosts: int) -> str:
  return f"step-{step:06d}-host-{host:05d}-of-{hosts:05d}.parquet"
