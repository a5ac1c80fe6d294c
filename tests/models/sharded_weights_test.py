"""Loading and saving over many devices, and over two processes, in processes apart."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fmd_jax import models
from tests.models import tiny
from tests.ports import free_port

ROOT = pathlib.Path(__file__).parents[2]

# Loads, counts the bytes read for each device, saves again, writes what it found.
SCRIPT = """
import collections, json, sys
import jax, numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

folder, out, process, processes, address = sys.argv[1:]
if int(processes) > 1:
  jax.distributed.initialize(address, int(processes), int(process))
from fmd_jax import models
from fmd_jax.models import tensor_files, weights

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))

def sharding(path, shape):
  axis = len(shape) - (2 if "down_proj" in path or len(shape) < 2 else 1)
  if shape[axis] % 4 or path[-1] == "scale":
    return NamedSharding(mesh, P())
  return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

read, last, reader = collections.Counter(), [0], []
class Reader(tensor_files.TensorReader):
  def __init__(self, folder):
    super().__init__(folder)
    reader.append(self)
tensor_files.TensorReader = Reader
put = jax.device_put
def device_put(part, target):
  read[next(iter(target.device_set)).id] += reader[0].bytes_read - last[0]
  last[0] = reader[0].bytes_read
  return put(part, target)
weights.jax.device_put = device_put

model = models.load(folder, shardings=sharding)
weights.jax.device_put = put
held = collections.Counter()
state = nnx.to_flat_state(nnx.state(model))
for path, variable in state:
  assert variable[...].sharding == sharding(path, variable.shape), path
  for shard in variable[...].addressable_shards:
    held[shard.device.id] += shard.data.size * 2  # the files are bfloat16
models.save(model, out)
with open(f"{out}.{process}.json", "w") as file:
  json.dump({"read": read, "held": held, "total": reader[0].bytes_read}, file)
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_device_reads_its_own_bytes(tmp_path, processes):
  # Whole rows read for a few of their columns, or a whole tensor for one slice, would
  # be more bytes than the device holds; a slice of the wrong side, other weights.
  model = tiny.model(seed=0, **tiny.QWEN3)
  models.save(model, tmp_path / "in", dtype=jnp.bfloat16)
  address = f"127.0.0.1:{free_port()}"
  environment = {
    **os.environ,
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // processes}",
    "PYTHONPATH": str(ROOT),
  }
  command = [sys.executable, "-c", SCRIPT, tmp_path / "in", tmp_path / "out"]
  running = [
    subprocess.Popen(
      [*map(str, command), str(i), str(processes), address],
      env=environment,
    )
    for i in range(processes)
  ]
  try:
    assert [p.wait(timeout=280) for p in running] == [0] * processes
  finally:
    for process in running:
      process.kill()
  reports = [tmp_path / f"out.{i}.json" for i in range(processes)]
  found = [json.loads(report.read_text()) for report in reports]
  size = 2 * sum(x.size for x in nnx.state(model).flat_state().leaves)
  for process in found:
    assert set(process["read"]) == set(process["held"])
    assert len(process["held"]) == 8 // processes
    for device, count in process["read"].items():
      assert count <= process["held"][device]
    # One process holds everything once; of two, `data` gives each everything once.
    assert process["total"] == size
  plain, again = (models.load(tmp_path / name) for name in ("in", "out"))
  left, right = (nnx.to_flat_state(nnx.state(m)) for m in (plain, again))
  assert all(np.array_equal(a[...], b[...]) for (_, a), (_, b) in zip(left, right))
