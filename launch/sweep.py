"""Runs several configs on several seeds and puts them into one table:

  python -m launch.sweep --workdir ROOT \\
    --configs configs/ablations.py:default,configs/ablations.py:no_lexical \\
    --seeds 0,1,2 [--config.key=value ...]
  python -m launch.sweep --workdir ROOT --grid configs/grids/rewards.py
  python -m launch.sweep --workdir ROOT --grid configs/paper/table1.py --world testbed

One run after another, or `--parallel` (`--jobs`) at a time, each in ROOT/<row>/seed-<n>
with its output in discover.log. `--dry_run` prints the commands and what they ask for.
A run that fails is reported and the others go on; the exit code is then 1. Start it
again to go on: what has a metrics.json is finished and skipped. `--config.key=value`
holds for all runs.

`--launcher slurm --launcher_flags="--nodes=1 --gpus_per_node=8"` has each run made by
launch.slurm (or gke, tpu_pod, which want ROOT at gs://…), `--jobs` of them at a time.

ROOT/table.md, .json, .csv and .tex have every run beside the Zero Shot of the same
seed, wherever in the grid that was run (a config with "zero_shot" among its methods),
and the means over the seeds. SD, LD and # Skills are of equally many questions in the
whole grid. The paper's numbers stand beside them, named as what they are.
"""

import collections
import datetime
import inspect
import json
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import ml_collections
from absl import app, flags, logging
from etils import epath

from launch._flags import OVERRIDE as _OVERRIDE
from launch._flags import parse_own_flags, resolve

_WORKDIR = flags.DEFINE_string("workdir", None, "ROOT of the runs.", required=True)
_CONFIGS = flags.DEFINE_list("configs", [], "configs/NAME.py[:arg], comma-separated.")
_SEEDS = flags.DEFINE_list(
  "seeds",
  [],
  "How many (3: seeds 0, 1 and 2), or which, comma-separated (0,2,5; 2, for one); the "
  "grid's own, or 0, when not given.",
)
_GRID = flags.DEFINE_string(
  "grid",
  None,
  "A file whose get_grid() gives configs, seeds, paper (numbers), reference (row).",
)
_WORLD = flags.DEFINE_string(
  "world", None, "Of a grid that has several (configs/paper): coco or testbed."
)
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at the same time.", lower_bound=1)
flags.DEFINE_alias("parallel", "jobs")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the commands.")
_LAUNCHER = flags.DEFINE_enum(
  "launcher", "local", ["local", "slurm", "gke", "tpu_pod"], "What each run is made by."
)
_LAUNCHER_FLAGS = flags.DEFINE_string(
  "launcher_flags", "", "Its own, as one string; --name is given by the sweep."
)
_TABLE_ONLY = flags.DEFINE_bool("table_only", False, "Only make the tables anew.")


class Arm(NamedTuple):
  """One run of the grid.

  Attributes:
    name: of its config.
    seed: of the run.
    workdir: ROOT/<name>/seed-<n>.
    command: that makes it.
    config: what the command resolves to.
  """

  name: str
  seed: int
  workdir: epath.Path
  command: list[str]
  config: ml_collections.ConfigDict

  def __str__(self) -> str:
    return f"{self.name} seed {self.seed}"

  @property
  def finished(self) -> bool:
    return (self.workdir / "metrics.json").exists()


# What a grid may say beside its configs, their world and the seeds; see `make_table`.
_OPTIONS = {"paper": {}, "reference": None, "group": (), "columns": ()}
_ABOUT = {
  "testbed": "Ours: tiny models on tiny scenes, judged by the oracle that knows them. "
  'The rows "the paper" are printed there, of 3B to 8B models on COCO, judged by '
  "Gemini 3 Flash: directions can be compared, sizes can't.",
  "coco": 'The rows "the paper" are printed there; the others are of these runs.',
}


def read_grid() -> tuple[list[tuple[str, str]], list[int], dict]:
  """(name, path) of the configs, seeds, and the options of `make_table`."""
  if bool(_GRID.value) == bool(_CONFIGS.value):
    raise SystemExit("error: give --configs, or a --grid that names them")
  grid = {"configs": _CONFIGS.value, "seeds": [0], "world": None, **_OPTIONS}
  world = {} if _WORLD.value is None else {"world": _WORLD.value}
  if world and not _GRID.value:
    raise SystemExit("error: --world chooses among those of a --grid")
  if _GRID.value:
    try:
      get_grid = runpy.run_path(_GRID.value)["get_grid"]
      if world and not inspect.signature(get_grid).parameters:
        raise ValueError("it has one world only: leave --world out")
      grid |= get_grid(**world)
    except (OSError, KeyError, ValueError) as error:
      message = error if isinstance(error, ValueError) else repr(error)
      raise SystemExit(f"error: --grid {_GRID.value}: {message}") from None
  if _SEEDS.value:
    named = [seed.strip() for seed in _SEEDS.value if seed.strip()]
    if not all(seed.isdecimal() for seed in named):
      raise SystemExit(f"error: --seeds {','.join(_SEEDS.value)}: not whole numbers")
    seeds = [int(seed) for seed in named]
    grid["seeds"] = list(range(seeds[0])) if len(_SEEDS.value) == 1 else seeds
  configs = grid["configs"]
  if isinstance(configs, dict):
    configs = list(configs.items())
  else:
    configs = [(_name(path), path) for path in configs]
  options = {key: grid[key] for key in _OPTIONS}
  return configs, grid["seeds"], options | {"about": _ABOUT.get(grid["world"], "")}


def _name(path: str) -> str:
  file, _, argument = path.partition(":")
  return (argument or pathlib.Path(file).stem).replace("/", "_")


def make_arms(
  root: epath.Path,
  configs: list[tuple[str, str]],
  seeds: list[int],
  overrides: list[str],
) -> list[Arm]:
  """All runs of the grid: the configs in their order, each with all seeds."""
  for override in overrides:
    if "=" not in override or override.startswith(f"{_OVERRIDE}seed="):
      raise SystemExit(f"error: {override}: --config.key=value, and seeds by --seeds")
  arms = []
  for name, path in configs:
    for seed in seeds:
      folder = root / name / f"seed-{seed}"
      keys = [f"{_OVERRIDE}seed={seed}", *overrides]
      discover = _launcher(name, seed)
      command = [*discover, f"--config={path}", f"--workdir={folder}", *keys]
      arms.append(Arm(name, seed, folder, command, resolve(path, keys)))
  twice = [k for k, n in collections.Counter(a.workdir for a in arms).items() if n > 1]
  if twice:
    raise SystemExit(f"error: two runs of the grid have the same workdir {twice[0]}")
  return arms


def _launcher(name: str, seed: int) -> list[str]:
  """The command that makes one run and ends when the run has ended."""
  if _LAUNCHER.value == "local":
    return [sys.executable, "-m", "launch.discover"]
  # A name for clouds and clusters: small letters, digits, hyphens.
  row = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:30]
  own = [f"--name=fmd-{row}-{seed}", *shlex.split(_LAUNCHER_FLAGS.value)]
  return [sys.executable, "-m", f"launch.{_LAUNCHER.value}", *own]


def check_finished(arm: Arm) -> None:
  """Refuses to take the run of another config for this one."""
  from fmd_jax import records

  config = arm.config.to_dict()
  # How a run is kept, served and watched changes none of its numbers.
  free = [
    f"{part}.{key}"
    for part in ("checkpoint", "sidecar", "watch")
    for key in config[part]
  ]
  try:
    records.check_config(arm.workdir, config, free)
  except ValueError as error:
    raise SystemExit(f"error: {error}") from None


def run_all(arms: list[Arm], jobs: int) -> list[Arm]:
  """Runs what is not finished, `jobs` at a time; returns what failed."""
  begun, failed, running, number = time.monotonic(), [], [], len(arms)
  waiting = [(f"[{i}/{number}] {arm}:", arm) for i, arm in enumerate(arms, 1)]
  left, ended = sum(not arm.finished for arm in arms), 0
  try:
    while waiting or running:
      while waiting and len(running) < jobs:
        head, arm = waiting.pop(0)
        if arm.finished:
          print(f"{head} finished before, skipped", flush=True)
        else:
          running.append((head, arm, time.monotonic(), _start(head, arm)))
      for each in list(running):
        head, arm, start, process = each
        if process.poll() is None:
          continue
        running.remove(each)
        left, ended = left - 1, ended + 1
        if process.returncode:
          failed.append(arm)
          code, last = process.returncode, _last_line(_log(arm))
          print(f"{head} FAILED with exit code {code}: {last}", flush=True)
        else:
          print(f"{head} finished in {_clock(time.monotonic() - start)}", flush=True)
        elapsed = time.monotonic() - begun
        remaining = _clock(left * elapsed / ended)
        print(f"  elapsed {_clock(elapsed)}, remaining about {remaining}", flush=True)
      time.sleep(0.1)
  finally:
    for *_, process in running:
      process.kill()
      process.wait()
  return failed


def _cost(arms: list[Arm]) -> str:
  """What the runs that are not finished ask while training, in one line."""
  left = [arm.config for arm in arms if not arm.finished]
  asked = sum(
    len(c.methods) * c.steps * c.images_per_step * c.group_size * c.questions_per_image
    for c in left
  )
  return (
    f"{len(left)} runs, {asked:,} questions while training, each answered and judged "
    "at most once, and those about unseen images; launch.discover --dry_run tells more"
  )


def _log(arm: Arm) -> pathlib.Path:
  if "://" in str(arm.workdir):  # the output of what runs here stays here
    return pathlib.Path("runs", "sweep", arm.name, f"seed-{arm.seed}", "discover.log")
  return pathlib.Path(arm.workdir / "discover.log")


def _start(head: str, arm: Arm) -> subprocess.Popen:
  print(f"{head} started; its output: {_log(arm)}", flush=True)
  _log(arm).parent.mkdir(parents=True, exist_ok=True)
  with open(_log(arm), "ab") as out:
    return subprocess.Popen(arm.command, stdout=out, stderr=subprocess.STDOUT)


def _clock(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))


def _last_line(log: pathlib.Path) -> str:
  lines = log.read_text(errors="replace").splitlines()
  return next((line for line in reversed(lines) if line.strip()), "no output")


def write_tables(root: epath.Path, arms: list[Arm], options: dict) -> None:
  """Measures the finished runs and writes the three tables; prints the first."""
  from fmd_jax.metrics import grid, layout
  from fmd_jax.records.files import write_atomic

  done = [arm for arm in arms if arm.finished]
  if not done:
    raise SystemExit(f"error: no run of the grid in {root} is finished")

  def embed(texts: list[str]):
    # Imported only now: these bring jax with them.
    from fmd_jax import discover, evaluate

    config = json.loads((done[0].workdir / "config.json").read_text())
    config = ml_collections.ConfigDict(config)
    with discover.serve_roles(config, root, ("embedder",)) as models:
      return evaluate.embed_distinct(models["embedder"], texts)

  runs = [run for arm in done for run in grid.read(arm.workdir, arm.name, arm.seed)]
  table = grid.make_table(runs, embed, **options)
  table["unfinished"] = [str(arm) for arm in arms if not arm.finished]
  text = layout.markdown(table)
  if table["unfinished"]:
    text += f"\nNot finished: {', '.join(table['unfinished'])}.\n"
  numbers = json.dumps(table, indent=2, allow_nan=False) + "\n"
  write_atomic(root / "table.json", numbers.encode())
  write_atomic(root / "table.csv", layout.long(table).to_csv(index=False).encode())
  write_atomic(root / "table.tex", layout.latex(table).encode())
  write_atomic(root / "table.md", text.encode())
  print(f"\n{text}\nTables: {root / 'table.md'}, .json, .csv, .tex")


def main(argv: list[str]) -> None:
  overrides = [argument for argument in argv[1:] if argument.startswith(_OVERRIDE)]
  if len(argv) > 1 + len(overrides):
    unknown = [argument for argument in argv[1:] if argument not in overrides]
    raise app.UsageError(f"unknown arguments: {' '.join(unknown)}")
  logging.set_verbosity(logging.INFO)
  # As an exception, which ends the run under way too.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  root = epath.Path(_WORKDIR.value)
  configs, seeds, options = read_grid()
  arms = make_arms(root, configs, seeds, overrides)
  failed = []
  if not _TABLE_ONLY.value:
    for arm in arms:
      if arm.finished:
        check_finished(arm)
    if _DRY_RUN.value:
      for arm in arms:
        note = f"# {arm} is finished: " if arm.finished else ""
        print(f"{note}{shlex.join(arm.command)}")
      print(_cost(arms), file=sys.stderr)
      return
    failed = run_all(arms, _JOBS.value)
  try:
    write_tables(root, arms, options)
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error
  if failed:
    raise SystemExit(f"error: failed: {', '.join(map(str, failed))}")


if __name__ == "__main__":
  app.run(main, flags_parser=parse_own_flags)
