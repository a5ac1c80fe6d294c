"""Trains a testbed answerer's failures away, with what a run found:

  python -m launch.discover --config configs/quickstart.py --workdir DIR
  python -m launch.replay make --workdir DIR --suite S --share 0.5 --failures 600 \\
    --guards 400
  python -m launch.repair --workdir DIR --suite S --out FOLDER
  python -m launch.replay --suite S --roles.answerer=hf://FOLDER
  python -m launch.discover --config configs/quickstart.py --workdir AGAIN \\
    --config.roles.answerer=hf://FOLDER

That is the loop: discover, freeze, repair, see what changed, discover again. It learns
from pictures that the suite does not have: failures in the cells that the run shows to
fail, with their true answers, and questions that the model answered right. A model
outside the testbed is fine-tuned by its owner, on launch.report --export.
"""

import pathlib

from absl import app, flags, logging
from etils import epath

from launch import _saved

_WORKDIR = flags.DEFINE_string("workdir", None, "Of an evaluated run.", required=True)
_SUITE = flags.DEFINE_string(
  "suite", None, "Whose pictures are kept out.", required=True
)
_OUT = flags.DEFINE_string("out", None, "New folder of the answerer.", required=True)
_STEPS = flags.DEFINE_integer("steps", 900, "Of the fine-tuning.", 1)
_RATE = flags.DEFINE_float("learning_rate", 5e-4, "At its peak.", 0)
_MOST = flags.DEFINE_integer("most", 6, "Failures of a cell in one picture.", 1)
_KEEP = flags.DEFINE_float("keep", 2.0, "Questions answered right for each failure.", 0)
_SEED = flags.DEFINE_integer("seed", 0, "Of draws and order.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Say what would be learned.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  from fmd_jax import inference, replay
  from fmd_jax.testbed import repair

  workdir, out = epath.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
  config = _saved.config_of(workdir)
  try:
    if out.exists() and any(out.iterdir()):
      raise ValueError(f"{out} is not empty; name a new folder")
    suite = replay.read_suite(_SUITE.value)
    folder = pathlib.Path(inference.checkpoint_folder(config.roles.answerer))
    lessons = repair.choose(
      workdir, suite.images, most=_MOST.value, keep=_KEEP.value, seed=_SEED.value
    )
    failures, kept = (
      sum(map(len, part.values())) for part in (lessons.failures, lessons.kept)
    )
    images = len({*lessons.failures, *lessons.kept})
    print(
      f"{failures:,} failures of {len(lessons.cells)} cells and {kept:,} answers to "
      f"keep, about {images:,} pictures that are not in the suite"
    )
    for cell in lessons.cells:
      print(f"  {cell}")
    if _DRY_RUN.value:
      return
    repair.repair(
      folder,
      workdir,
      lessons,
      out,
      steps=_STEPS.value,
      learning_rate=_RATE.value,
      seed=_SEED.value,
    )
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error
  print(f"Repaired: {out}. Now:")
  print(f"  python -m launch.replay --suite {_SUITE.value} \\")
  print(f"    --roles.answerer=hf://{out.resolve()}")


if __name__ == "__main__":
  app.run(main)
