"""One process of a run over several, for hosts_test.py: run as a script.

  python -m tests.hosted OUT --workdir=DIR --config=… --coordinator=…

It is `launch.discover`, which also writes to OUT, step by step, a digest of the memory
banks as this process holds them.
"""

import hashlib
import json
import sys

from absl import app

from fmd_jax.rewards import Banks


def watch(out: str) -> None:
  """Every append to a bank adds a line to `out`."""
  append = Banks.append

  def watched(self, rows, embeddings):
    append(self, rows, embeddings)
    arrays, meta = self.state()
    digest = hashlib.sha256(json.dumps(meta).encode())
    for name in sorted(arrays):
      digest.update(arrays[name].tobytes())
    with open(out, "a") as file:
      file.write(f"{sum(self.counts.values())} {digest.hexdigest()}\n")

  Banks.append = watched


if __name__ == "__main__":
  watch(sys.argv.pop(1))
  from launch import discover
  from launch._flags import parse_flags

  app.run(discover.main, flags_parser=parse_flags)
