"""Judges the records of a run again and makes its numbers and report anew:

  python -m launch.evaluate --workdir DIR [--evaluator SPEC]

The evaluator and the embedder are those of the run's config.json unless told.
"""

import json
import pathlib

import ml_collections
from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_EVALUATOR = flags.DEFINE_string("evaluator", None, "Another judge: a model spec.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  from fmd_jax import discover, evaluate, report

  workdir = pathlib.Path(_WORKDIR.value)
  if not (workdir / "config.json").is_file():
    raise SystemExit(f"error: {workdir} holds no run: it has no config.json")
  config = ml_collections.ConfigDict(json.loads((workdir / "config.json").read_text()))
  if _EVALUATOR.value:
    config.roles.evaluator = _EVALUATOR.value
  try:
    with discover.serve_roles(config, workdir, ("evaluator", "embedder")) as models:
      evaluate.evaluate(
        workdir,
        models["evaluator"],
        max_tokens=config.judge.max_tokens,
        retries=config.judge.retries,
      )
      metrics = evaluate.measure(workdir, models["embedder"], config.seed)
    page = report.build(workdir)
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error
  print(f"\n{discover.table(metrics)}\n\nReport: {page}")


if __name__ == "__main__":
  app.run(main)
