"""What a run writes to its workdir, and how it is read back. Free of jax."""

from fmd_jax.records.confirmed import (
  Confirmed,
  read_confirmed,
  write_confirmed,
)
from fmd_jax.records.manifest import (
  WorkdirError,
  check_config,
  differences,
  write_manifest,
)
from fmd_jax.records.measurements import Measurements, read_measurements, totals
from fmd_jax.records.reader import (
  methods,
  read,
  read_parquet,
  read_table,
  steps,
  whole_steps,
)
from fmd_jax.records.schema import SCHEMA, SCHEMA_VERSION
from fmd_jax.records.writer import (
  drop_steps,
  write_image,
  write_parquet,
  write_shard,
)

__all__ = [
  "SCHEMA",
  "SCHEMA_VERSION",
  "Confirmed",
  "Measurements",
  "WorkdirError",
  "check_config",
  "differences",
  "drop_steps",
  "methods",
  "read",
  "read_confirmed",
  "read_measurements",
  "read_parquet",
  "read_table",
  "steps",
  "totals",
  "whole_steps",
  "write_confirmed",
  "write_image",
  "write_manifest",
  "write_parquet",
  "write_shard",
]
