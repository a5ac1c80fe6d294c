"""Compiles a run's programs for a TPU slice, without a TPU, and says whether they fit:

  python -m launch.tpu_fit --config configs/paper/table1.py:method=grpo \\
    --model qwen2_5_vl_3b --topology v5e:4x4 [--tensor 2] [--suggest]

Needs `pip install libtpu`. Exit 0 when all fit, 1 when not. A compile, not a speed.
"""

import os
import pathlib

# Before JAX is imported: it compiles for a TPU and runs on none.
os.environ |= {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from launch._flags import parse_flags  # noqa: E402

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:arg]")
_MODEL = flags.DEFINE_string(
  "model", None, "qwen2_5_vl_3b, another shape of this package, or a config.json."
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "A slice: v5e:4x4, v5p:2x2x2.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Sets config.sharding.tensor.")
_SUGGEST = flags.DEFINE_bool(
  "suggest", False, "Find the smallest slice of that kind that everything fits."
)
_TEXT = flags.DEFINE_integer("text_tokens", 128, "Of the prompt, beside the image's.")
_SIZE = flags.DEFINE_string("image", "640x480", "Width x height of every image.")
_HBM = flags.DEFINE_float("hbm", None, "GiB of a device to stay within; all of it.")
flags.mark_flags_as_required(["config", "model", "topology"])
_SHAPES = pathlib.Path(__file__).parents[1] / "fmd_jax" / "models" / "shapes"


def model_config(name: str):
  """A shape of the package by name, or a config.json by path.

  Raises:
    ValueError: there is neither.
  """
  from fmd_jax.models.config import from_folder

  path = pathlib.Path(name)
  if path.exists():
    return from_folder(path if path.is_dir() else path.parent)
  known = sorted(p.name for p in _SHAPES.iterdir())
  if name not in known:
    raise ValueError(
      f"no model {name!r}: it is no file, and the shapes are {', '.join(known)}"
    )
  return from_folder(_SHAPES / name)


def fits(config, model, name: str, workload) -> bool:
  """Prints the table of one topology."""
  from fmd_jax import fit, sharding

  devices = fit.topology(name)
  capacity = (_HBM.value or fit.HBM[name.split(":")[0]]) * fit.GIB
  mesh = sharding.make_mesh(**config.sharding, devices=devices)
  sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  print(f"{name}: {len(devices)} devices of {capacity / fit.GIB:.2f} GiB, {sizes}")
  compiled, too_large = [], []
  for *program, arguments in fit.programs(config, model, mesh, workload):
    compiled.append(fit.compile_program(*program, arguments, mesh))
    print(f"  {compiled[-1].name}: {compiled[-1].seconds:.0f} s", flush=True)
    if not compiled[-1].fits(capacity):
      largest = f"Its largest arguments:\n{fit.largest(arguments)}"
      error = f"{compiled[-1].error}\n".lstrip()
      too_large.append(f"{compiled[-1].name} does not fit. {error}{largest}")
  print("\n\n".join([fit.table(compiled, capacity), *too_large]))
  return not too_large


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  from fmd_jax import fit

  try:
    config, model = _CONFIG.value, model_config(_MODEL.value)
    config.sharding.tensor = _TENSOR.value
    width, height = map(int, _SIZE.value.split("x"))
    workload = fit.Workload(width, height, _TEXT.value)
    generation = _TOPOLOGY.value.split(":")[0]
    names = [_TOPOLOGY.value]
    if _SUGGEST.value:
      names = [f"{generation}:{s}" for s in fit.TOPOLOGIES.get(generation, ())] or names
    for name in names:
      done = fits(config, model, name, workload)
      if done and _SUGGEST.value:
        print(f"\n{name} is the smallest that everything fits.")
      if done:
        return
  except ValueError as error:
    raise SystemExit(f"error: {error}") from None
  raise SystemExit(1)


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
