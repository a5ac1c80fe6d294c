"""What people say of a run's questions, and how far its judges agree with them.

  python -m launch.human_study export --workdir DIR [--items 200] [--methods grpo]
  python -m launch.human_study serve  --workdir DIR [--port 8080]
  python -m launch.human_study import --workdir DIR [--from FILE --from FILE]
  python -m launch.human_study score  --workdir DIR [--consensus dawid_skene]
  python -m launch.evaluate --workdir DIR

`export` draws a sample of the judged questions, stratified by method, skill and
verdict, into DIR/study: share/ has it for the study page, for Label Studio (tasks.json
and config.xml) and as items.csv; private/ has what no annotator may see.
`serve` is the study page: send its link to the annotators. Whatever they answered is on
disk before the page says so; stop it at any time and start it again.
`import` makes labels.csv of what the page gathered, or of files: Label Studio's export
as JSON, items.csv filled in, a results CSV of Mechanical Turk.
`score` compares it with the judges and writes DIR/calibration.json, from which
`launch.evaluate` makes rates without the judges' errors.

labels.csv has a row for each rater and question slot: method, split, step, image_id,
response_index, slot (as in the run's records), rater, valid, correct (1, 0 or empty),
and, where slots were not drawn alike, weight; other columns are not read.
"""

import os
import pathlib

from absl import app, flags
from etils import epath

from launch._flags import parse_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_STUDY = flags.DEFINE_string("study", None, "Folder of the study; default: DIR/study.")
_ITEMS = flags.DEFINE_integer("items", 200, "export: question slots to draw.", 1)
_METHODS = flags.DEFINE_list("methods", [], "export: only of these; default: all.")
_ANNOTATIONS = flags.DEFINE_integer(
  "annotations", 5, "export: people for each item.", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "export: of the draw.", 0)
_IMAGES_AT = flags.DEFINE_string(
  "images_at",
  "",
  "export: address under which share/images will be found by Label Studio and readers "
  "of items.csv; default: pictures are inside tasks.json and beside items.csv.",
)
_HOST = flags.DEFINE_string(
  "host",
  "127.0.0.1",
  "serve: where to listen; beyond this machine only with FMD_JAX_STUDY_TOKEN set.",
)
_PORT = flags.DEFINE_integer("port", 8080, "serve: 0 takes a free one.", 0, 65535)
_MIN_SECONDS = flags.DEFINE_float(
  "min_seconds", 3.0, "serve: a faster answer is asked about once more; 0: never.", 0
)
_FROM = flags.DEFINE_multi_string(
  "from", [], "import: a file of annotations, as often as needed; default: the page's."
)
_LABELS = flags.DEFINE_string("labels", None, "score: default: STUDY/labels.csv.")
_CONSENSUS = flags.DEFINE_string(
  "consensus", "majority", "score: majority, or dawid_skene, which weighs raters."
)


def _folder() -> pathlib.Path:
  if not _STUDY.value and "://" in _WORKDIR.value:
    raise ValueError(f"{_WORKDIR.value} is remote: name a local folder with --study")
  return pathlib.Path(_STUDY.value or pathlib.Path(_WORKDIR.value) / "study")


def _next(command: str) -> str:
  study = f" --study {_STUDY.value}" if _STUDY.value else ""
  return f"  python -m launch.human_study {command} --workdir {_WORKDIR.value}{study}"


def _export() -> None:
  from fmd_jax.trust import study

  made = study.export(
    _WORKDIR.value,
    _folder(),
    items=_ITEMS.value,
    methods=_METHODS.value,
    annotations=_ANNOTATIONS.value,
    seed=_SEED.value,
    images_at=_IMAGES_AT.value,
  )
  key = made.key()
  print(key.groupby(["method", "split", "verdict"]).size().unstack(fill_value=0))
  print(
    f"\n{len(key):,} questions drawn, {len(made.items):,} different ones to label, "
    f"each by {made.annotations} people: {made.folder / 'share'}\n"
    f"Keep {made.folder / 'private'} from them. The study page:\n{_next('serve')}"
  )


def _serve() -> None:
  from fmd_jax.trust import study

  def tell(line: str) -> None:
    print(line, flush=True)

  server = study.StudyServer(
    study.open_study(_folder()),
    host=_HOST.value,
    port=_PORT.value,
    token=os.environ.get(study.TOKEN, "").strip(),
    min_seconds=_MIN_SECONDS.value,
    tell=tell,
  )
  with server:
    tell(f"The study is at {server.url} (Ctrl-C ends it; what was answered is kept)")
    server.tell_progress()
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      tell(f"\nMake labels of it:\n{_next('import')}")


def _import() -> None:
  from fmd_jax.records.files import write_atomic
  from fmd_jax.trust import study

  own = study.open_study(_folder())
  found = study.read_labels(own, _FROM.value)
  write_atomic(own.labels, found.labels.to_csv(index=False).encode())
  print(found.raters.to_string(index=False, na_rep="–"))
  for why, count in found.left_out.items():
    print(f"left out, {why}: {count:,}")
  print(
    f"\n{found.raters['annotations'].sum():,} annotations of {found.items:,} of "
    f"{len(own.items):,} items: {own.labels}. Now:\n{_next('score')}"
  )


def _score() -> None:
  import pandas as pd

  from fmd_jax import trust

  path = pathlib.Path(_LABELS.value or _folder() / "labels.csv")
  if not path.is_file():
    raise ValueError(f"there is no {path}: run import first, or name it with --labels")
  labels = pd.read_csv(path, dtype={"image_id": str})
  found = trust.score(_WORKDIR.value, labels, _CONSENSUS.value)
  print(trust.table(found))
  print(f"\nWrote {epath.Path(_WORKDIR.value) / 'calibration.json'}. Now:")
  print(f"  python -m launch.evaluate --workdir {_WORKDIR.value}")


def main(argv: list[str]) -> None:
  commands = {"export": _export, "serve": _serve, "import": _import, "score": _score}
  if len(argv) != 2 or argv[1] not in commands:
    given = " ".join(argv[1:])
    raise app.UsageError(
      f"unknown command {given!r}: it is one of {', '.join(commands)}"
    )
  try:
    commands[argv[1]]()
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
  app.run(main, flags_parser=parse_flags)
