"""Sorts the valid questions of finished runs into skills, analyses and shows them:

  python -m launch.taxonomy --workdir DIR [--workdir OTHER ...] [--annotator SPEC]

DIR/taxonomy/, DIR/analysis/ and DIR/report/index.html are made anew; several workdirs
share one taxonomy. The models and settings are those of the first run's config.json,
or of configs/base.py for keys that it lacks, unless told. Nothing that was annotated is
asked again. To rename or merge skills, write DIR/taxonomy/edits.csv and run this again:
only what follows is made anew. Its lines:

  action,what,into
  rename,checking things,object presence
  merge,colour naming,hue recognition
  move,reading a sign,letter reading
  meta,hue recognition,appearance
"""

import json

from absl import app, flags, logging
from etils import epath

from configs import base

_WORKDIR = flags.DEFINE_multi_string(
  "workdir", None, "Of a finished run; repeat it to pool runs.", required=True
)
_ANNOTATOR = flags.DEFINE_string("annotator", None, "A model spec: names primitives.")
_NAMER = flags.DEFINE_string("namer", None, "A model spec: names topics, sorts skills.")
_EMBEDDER = flags.DEFINE_string("embedder", None, "A model spec.")
_SEED = flags.DEFINE_integer("seed", None, "Of the clustering.")
_QUESTIONS = flags.DEFINE_integer(
  "questions", None, "Most annotated per method and split; 0: all.", lower_bound=0
)
_MIN_TOPIC_SIZE = flags.DEFINE_integer(
  "min_topic_size", None, "Fewest primitives of a topic; 0: by their number.",
  lower_bound=0,
)  # fmt: skip


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  workdirs = [epath.Path(path) for path in dict.fromkeys(_WORKDIR.value)]
  for workdir in workdirs:
    if not (workdir / "config.json").is_file():
      raise SystemExit(f"error: {workdir} holds no run: it has no config.json")
  config = _config(workdirs[0])
  from fmd_jax import analysis, evaluate, inference, report, taxonomy

  try:
    ledger = inference.Ledger(
      workdirs[0] / "spending.json",
      calls=config.budget.calls,
      usd=config.budget.usd,
      prices=config.budget.prices.to_dict(),
    )
    annotator, namer = (
      inference.BudgetedGenerator(inference.resolve(config.roles[role]), role, ledger)
      for role in ("annotator", "namer")
    )
    models = taxonomy.Models(
      annotator=annotator,
      namer=namer,
      embedder=inference.resolve_embedder(config.roles.embedder),
    )
    settings = taxonomy.Settings(
      seed=config.seed, retries=config.judge.retries, **config.taxonomy
    )
    folder = taxonomy.build(workdirs, models, settings)
    censuses = {str(path): evaluate.shipped_census(path) for path in workdirs}
    tables = analysis.write(workdirs, models.embedder.embed, censuses)
    pages = [report.build(workdir) for workdir in workdirs]
  except (ValueError, OSError, RuntimeError, ImportError) as error:
    raise SystemExit(f"error: {error}") from error
  print(f"\nTaxonomy: {folder}\nTables and figures: {tables}")
  for page in pages:
    print(f"Report: {page}")


def _config(workdir: epath.Path):
  """The run's config, completed by the defaults of keys that are newer than it."""
  config = base.get_config()
  said = json.loads((workdir / "config.json").read_text())
  config.seed = said["seed"]
  for part in ("roles", "judge", "budget", "taxonomy"):
    known = {k: v for k, v in said.get(part, {}).items() if k in config[part]}
    config[part].update(known)
  for name, flag in (
    ("roles.annotator", _ANNOTATOR),
    ("roles.namer", _NAMER),
    ("roles.embedder", _EMBEDDER),
    ("seed", _SEED),
    ("taxonomy.questions", _QUESTIONS),
    ("taxonomy.min_topic_size", _MIN_TOPIC_SIZE),
  ):
    if flag.value is not None:
      config.update_from_flattened_dict({name: flag.value})
  return config


if __name__ == "__main__":
  app.run(main)
