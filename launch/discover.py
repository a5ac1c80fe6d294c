"""Finds what a model gets wrong:

  python -m launch.discover --config configs/quickstart.py --workdir DIR \\
    [--config.key=value ...]

Run it again with the same config and workdir to go on after a crash. Every key of the
config, with its meaning: configs/base.py.
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from launch._flags import parse_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:arg]")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written.")
flags.mark_flags_as_required(["config", "workdir"])
# The key of the JAX compilation cache is the program: sharing it is always safe.
_CACHE = pathlib.Path(__file__).parents[1] / ".venv" / "jax_cache"


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  import jax

  if "JAX_COMPILATION_CACHE_DIR" not in os.environ and _CACHE.parent.is_dir():
    jax.config.update("jax_compilation_cache_dir", str(_CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  from fmd_jax import discover, inference, report
  from fmd_jax.report import closing

  try:
    metrics = discover.discover(_CONFIG.value, _WORKDIR.value)
    report.build(_WORKDIR.value)
    found = closing.closing(_WORKDIR.value)
  except inference.BudgetError as error:
    # sysexits.h's EX_TEMPFAIL: what was paid for is kept.
    print(f"stopped: {error}", file=sys.stderr)
    raise SystemExit(75) from error
  except (ValueError, OSError, RuntimeError) as error:
    if logging.level_debug():
      raise
    raise SystemExit(f"error: {error}") from error
  print(f"\n{discover.table(metrics)}\n\n{found}")


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
