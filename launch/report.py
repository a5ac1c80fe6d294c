"""Writes the report of a run again: `python -m launch.report --workdir DIR`."""

from absl import app, flags

from fmd_jax import report

_WORKDIR = flags.DEFINE_string("workdir", None, "of the run", required=True)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unknown argument {argv[1]!r}")
  try:
    print(f"Report: {report.build(_WORKDIR.value)}")
  except FileNotFoundError as error:
    raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
  app.run(main)
