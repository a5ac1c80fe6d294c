"""What people say of a run's questions, and how far its judges agree with them:

  python -m launch.human_study score --workdir DIR --labels labels.csv
    [--consensus dawid_skene]

labels.csv has a row for each rater and question slot: method, split, step, image_id,
response_index, slot (as in the run's records), rater, valid, correct (1, 0 or empty),
and, where slots were not drawn alike, weight. `score` writes DIR/calibration.json,
which launch.evaluate uses from then on, and prints it.
"""

import pathlib

from absl import app, flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_LABELS = flags.DEFINE_string("labels", None, "CSV of people's labels.", required=True)
_CONSENSUS = flags.DEFINE_string(
  "consensus", "majority", "majority, or dawid_skene, which weighs raters."
)


def main(argv: list[str]) -> None:
  if argv[1:] != ["score"]:
    raise app.UsageError(f"unknown command {' '.join(argv[1:])!r}: it is score")
  import pandas as pd

  from fmd_jax import trust

  try:
    labels = pd.read_csv(_LABELS.value, dtype={"image_id": str})
    found = trust.score(pathlib.Path(_WORKDIR.value), labels, _CONSENSUS.value)
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error
  print(trust.table(found))
  print(f"\nWrote {pathlib.Path(_WORKDIR.value) / 'calibration.json'}. Now:")
  print(f"  python -m launch.evaluate --workdir {_WORKDIR.value}")


if __name__ == "__main__":
  app.run(main)
