"""Finds what a model gets wrong:

  python -m launch.discover --config configs/quickstart.py --workdir DIR \\
    [--config.key=value ...] [--dry_run]

`--dry_run` prints what would be asked of which models, and starts nothing. Run it again
with the same config and workdir to go on after a crash. SIGTERM or Ctrl-C: it keeps a
checkpoint and ends with exit code 75, "try again"; what fails, or is stopped by its
monitor, ends with 1.
Every key of the config, with its meaning: configs/base.py.

Several processes make one run; each is started with the same workdir, which all can
write to, and

  --coordinator HOST0:PORT --num_processes N --process_id I

On TPU pods and under SLURM these are found out (--coordinator=auto insists on it).
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from launch._flags import parse_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/NAME.py[:arg]")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written.")
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "host:port of the first of several processes, or auto."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the plan and its cost.")
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
  from fmd_jax import discover, hosts, inference, plan, report, stopping
  from fmd_jax.report import closing

  stop = stopping.Stop()
  try:
    if _DRY_RUN.value:
      discover.check(_CONFIG.value)
      print(plan.describe(_CONFIG.value))
      return
    hosts.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    jax.devices()
    stop.listen()
    metrics = discover.discover(_CONFIG.value, _WORKDIR.value, stop)
    if metrics is None:
      return
    report.build(_WORKDIR.value)
    found = closing.closing(_WORKDIR.value)
  except stopping.Alarmed as error:
    hosts.part()
    raise SystemExit(f"error: {error}") from error
  except hosts.Stopped as error:
    hosts.part()
    print(f"{error}: start it again to go on", file=sys.stderr)
    sys.exit(stopping.EXIT_CODE)
  except inference.BudgetError as error:
    hosts.part()
    print(f"stopped: {error}; what was paid for is kept", file=sys.stderr)
    sys.exit(stopping.EXIT_CODE)
  except (ValueError, OSError, RuntimeError) as error:
    if logging.level_debug():
      raise
    raise SystemExit(f"error: {error}") from error
  parts = (discover.table(metrics), discover.costs(_WORKDIR.value, metrics), found)
  print("\n" + "\n\n".join(filter(None, parts)))


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
