"""Shows how a run is getting on: `python -m launch.status --workdir DIR [--follow]`.

State, step, rate, time left, the latest numbers and the latest failures, read from
the files of the workdir: the run needs to be neither local nor alive.
"""

import time

from absl import app, flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_FOLLOW = flags.DEFINE_bool("follow", False, "Show it again until the run is finished.")
_EVERY = flags.DEFINE_float("every", 10.0, "Seconds between.", lower_bound=0.1)
_FAILURES = flags.DEFINE_integer("failures", 3, "Latest to show.", lower_bound=0)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  from fmd_jax.report import status

  try:
    while True:
      now = status.read(_WORKDIR.value, _FAILURES.value)
      print(status.text(now), flush=True)
      if not _FOLLOW.value or now.state == "finished":
        return
      time.sleep(_EVERY.value)
      print(flush=True)
  except (OSError, ValueError) as error:
    raise SystemExit(f"error: {error}") from None
  except KeyboardInterrupt:
    raise SystemExit(130) from None


if __name__ == "__main__":
  app.run(main)
