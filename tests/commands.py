"""Runs many `launch` commands in one process each, forked after the imports.

Importing jax and the package takes seconds; a fork of a process that has done it, none.

    python -m tests.commands < [["launch.sweep", "--dry_run", …], …] as JSON
"""

import json
import os
import runpy
import sys
import tempfile


def run(command: list[str]) -> tuple[int, str]:
  """The exit code and the output of `python -m command`."""
  with tempfile.TemporaryFile("w+") as out:
    child = os.fork()
    if child == 0:
      code = 1
      try:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        code = 0
      except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
          print(code, file=sys.stderr)
          code = 1
      finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    out.seek(0)
    return os.waitstatus_to_exitcode(status), out.read()


def main() -> None:
  from absl import app, flags, logging  # noqa: F401
  from ml_collections import config_flags  # noqa: F401

  from fmd_jax import discover, plan, report  # noqa: F401

  json.dump([run(command) for command in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
  main()
