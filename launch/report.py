"""The report of a run, and its failures to take away.

python -m launch.report --workdir DIR                 writes DIR/report/index.html
python -m launch.report --workdir DIR --export OTHER  also writes the failures to OTHER,
  a new folder: dataset/ (datasets.load_dataset), conversations/ (JSON lines as LLaVA
  has them), lmms_eval/<task>/ (asks them again of any model)
"""

from absl import app, flags

from fmd_jax import report

_WORKDIR = flags.DEFINE_string("workdir", None, "of the run", required=True)
_EXPORT = flags.DEFINE_string("export", None, "a new folder for the failures")
_MAX_FAILURES = flags.DEFINE_integer(
  "max_failures", report.MAX_FAILURES, "shown and exported", lower_bound=1
)
_TIER = flags.DEFINE_integer(
  "tier", 1,
  "only failures that launch.confirm found to be of this tier or higher; the page is "
  "DIR/report/tier-N.html. launch.evaluate --tier makes its numbers",
  lower_bound=1, upper_bound=5,
)  # fmt: skip


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unknown argument {argv[1]!r}")
  try:
    page = report.build(_WORKDIR.value, _MAX_FAILURES.value, _TIER.value)
    print(f"Report: {page}")
    if _EXPORT.value:
      made = report.export(
        _WORKDIR.value, _EXPORT.value, _MAX_FAILURES.value, _TIER.value
      )
      for form, folder in made.items():
        print(f"Failures as {form}: {folder}")
  except (FileNotFoundError, FileExistsError) as error:
    raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
  app.run(main)
