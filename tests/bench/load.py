"""Peak memory and bytes read when a full-size Qwen2.5-VL-3B is loaded over 8 devices.

  python tests/bench/load.py             # some minutes, 7.5 GB of disk and memory
  python tests/bench/load.py --keep DIR  # makes the folder there once, and keeps it

The folder is synthetic: random bfloat16 of the real shapes, two files and an index. It
is loaded over 8 devices forced on this CPU, all parameters cut in 8 (fsdp = 8), as one
host and as two (two processes that know each other, 4 devices each). Memory is the
peak resident set of the whole process, interpreter and JAX included; it counts no page
cache, because files are read and not mapped. Bytes read are what the kernel counted
(rchar). Share: what a host's devices hold.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
DEVICES = 8
LIMIT = 1.25

CONFIG = {
  "model_type": "qwen2_5_vl",
  "tie_word_embeddings": True,
  "image_token_id": 151655,
  "video_token_id": 151656,
  "vision_start_token_id": 151652,
  "vision_end_token_id": 151653,
  "bos_token_id": 151643,
  "eos_token_id": 151645,
  "hidden_size": 2048,
  "intermediate_size": 11008,
  "num_hidden_layers": 36,
  "num_attention_heads": 16,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-6,
  "rope_theta": 1e6,
  "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
  "vocab_size": 151936,
  "vision_config": {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
  },
}


def make(folder: pathlib.Path) -> None:
  """Writes the synthetic folder, one tensor in memory at a time."""
  import jax.numpy as jnp
  import numpy as np
  from flax import nnx

  from fmd_jax import models
  from fmd_jax.models import config as configs
  from fmd_jax.models import tensor_files, weights

  config = configs.from_dict(CONFIG)
  model = nnx.eval_shape(lambda: models.QwenVL(config, rngs=nnx.Rngs(0)))
  tensors = weights.layout(nnx.state(model), config)
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
  random = np.random.default_rng(0)

  def noise(name):
    bits = random.integers(0, 2**16, math.prod(shapes[name]), np.uint16)
    bits = bits & 0x80FF | 0x3C00  # a random sign and mantissa, +-2^-7 to 2^-5
    return bits.view(jnp.bfloat16).reshape(shapes[name])

  folder.mkdir(parents=True, exist_ok=True)
  configs.to_folder(config, folder, "bfloat16")
  shards = tensor_files.plan_shards(sizes)
  for file, names in shards.items():
    tensor_files.write_file(
      folder / file,
      {name: shapes[name] for name in names},
      jnp.bfloat16,
      map(noise, names),
    )
  # Last: it says that the folder is whole.
  tensor_files.write_index(folder, shards, sizes)


def load(folder: str, process: int, processes: int, address: str) -> dict:
  """Loads this host's part and measures it; runs in a process of its own."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from flax import nnx
  from jax.sharding import Mesh, NamedSharding, PartitionSpec

  if processes > 1:
    jax.distributed.initialize(address, processes, process)
  from fmd_jax import models
  from fmd_jax.models.axes import EMBED, MERGED, VISION_EMBED, logical_axes

  mesh = Mesh(np.array(jax.devices()), ("fsdp",))

  def sharding(path, shape):
    axes = logical_axes(path)
    cut = [i for i, a in enumerate(axes) if a in (EMBED, VISION_EMBED, MERGED)]
    cut = [i for i in cut if shape[i] % DEVICES == 0 and len(shape) > 1][:1]
    return NamedSharding(
      mesh, PartitionSpec(*("fsdp" if i in cut else None for i in range(len(shape))))
    )

  jnp.zeros(8).block_until_ready()  # the backend is up
  before, read = _memory("VmRSS"), _bytes_read()
  start, cpu = time.perf_counter(), time.process_time()
  model = models.load(folder, jnp.bfloat16, sharding)
  seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
  read = _bytes_read() - read
  parameters = [v[...] for _, v in nnx.to_flat_state(nnx.state(model))]
  shards = [s.data for p in parameters for s in p.addressable_shards]
  # Each part once, however many devices have a copy of it.
  parts = sum(
    math.prod(len(range(*s.indices(n))) for s, n in zip(index, p.shape)) * 2
    for p in parameters
    for index in {str(s.index): s.index for s in p.addressable_shards}.values()
  )
  return {
    "before": before,
    "peak": _memory("VmHWM"),
    "share": sum(s.nbytes for s in shards),
    "read": read,
    "parts": parts,
    "seconds": seconds,
    "cpu": cpu,
  }


def _memory(name: str) -> int:
  """VmRSS, or VmHWM, its peak; getrusage's would be the parent's, if that was more."""
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return int(dict(line.split(":") for line in lines)[name].split()[0]) * 1024


def _bytes_read() -> int:
  lines = pathlib.Path("/proc/self/io").read_text().splitlines()
  return int(dict(line.split(": ") for line in lines)["rchar"])


def hosts(folder: pathlib.Path, count: int) -> list[dict]:
  """What each of `count` hosts measured."""
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{s.getsockname()[1]}"
  environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}",
  }
  with tempfile.TemporaryDirectory() as results:
    started = [
      subprocess.Popen(
        [sys.executable, __file__, "--keep", folder]
        + ["--host", f"{i}", f"{count}", address, f"{results}/{i}"],
        env=environment,
      )
      for i in range(count)
    ]
    if max(process.wait() for process in started):
      raise SystemExit("a host failed, see above")
    return [json.loads(pathlib.Path(results, f"{i}").read_text()) for i in range(count)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--keep", type=pathlib.Path, help="folder to make or use again")
  parser.add_argument("--host", nargs=4, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.host:
    process, processes, address, result = options.host
    found = load(options.keep, int(process), int(processes), address)
    pathlib.Path(result).write_text(json.dumps(found))
    return

  temporary = None if options.keep else tempfile.mkdtemp(prefix="qwen2_5_vl_3b-")
  folder = options.keep or pathlib.Path(temporary)
  try:
    if not list(folder.glob("*.index.json")):
      print(f"making {folder} (7.5 GB) ...", flush=True)
      make(folder)
    rows = [("1 host of 8 devices", hosts(folder, 1)[0])]
    rows += [
      (f"host {i + 1} of 2, 4 devices", r) for i, r in enumerate(hosts(folder, 2))
    ]
  finally:
    if temporary:
      shutil.rmtree(temporary)

  heads = (
    "",
    "share MB",
    "peak RSS MB",
    "of it before",
    "peak/share",
    "read/own",
    "s",
    "CPU s",
  )
  print("{:24} {:>9} {:>12} {:>13} {:>11} {:>9} {:>6} {:>6}".format(*heads))
  for name, r in rows:
    ratio, read = r["peak"] / r["share"], r["read"] / r["parts"]
    print(
      f"{name:24} {r['share'] / 1e6:9.0f} {r['peak'] / 1e6:12.0f} "
      f"{r['before'] / 1e6:13.0f} {ratio:11.3f} {read:9.3f} {r['seconds']:6.1f} "
      f"{r['cpu']:6.1f}"
    )
  (_, whole), *halves = rows
  result = {
    "peak_rss_mb": round(whole["peak"] / 1e6),
    "share_mb": round(whole["share"] / 1e6),
    "ratio": round(whole["peak"] / whole["share"], 3),
    "seconds": round(whole["seconds"], 1),
    "half_peak_rss_mb": round(max(r["peak"] for _, r in halves) / 1e6),
    "half_ratio": round(max(r["peak"] / r["share"] for _, r in halves), 3),
    "half_read_ratio": round(max(2 * r["read"] / whole["parts"] for _, r in halves), 3),
    "limit": LIMIT,
  }
  print(json.dumps(result))
  ratios = (result["ratio"], result["half_ratio"], result["half_read_ratio"])
  sys.exit(int(max(ratios) > LIMIT))


if __name__ == "__main__":
  main()
