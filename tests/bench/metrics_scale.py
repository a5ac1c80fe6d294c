"""The metrics of one million questions: seconds and memory.

  python -m tests.bench.metrics_scale

Rows like a run's: 20 000 images, 50 questions each, 130 skills, up to five a question.
Times are of the wall, each once. The published vendi-score stands beside ours, in a
process of its own, where pip can bring it.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import numpy as np
import pandas as pd

from fmd_jax import metrics

ROWS, IMAGES, SKILLS, WIDTH, PREFIXES = 1_000_000, 20_000, 130, 384, 400
FEW = 4000  # rows for the published kernel form, which holds N x N numbers
PEER = """
import json, sys, time
import numpy as np
from vendi_score import vendi
vectors = np.random.default_rng(1).standard_normal((int(sys.argv[2]), 384), np.float32)
vectors[:, 0] += 20
start = time.perf_counter()
value = float(getattr(vendi, sys.argv[1])(vectors))
print(json.dumps([time.perf_counter() - start, value]))
"""


def rows() -> pd.DataFrame:
  generator = np.random.default_rng(0)
  image = np.arange(ROWS) % IMAGES
  odds = generator.beta(2, 3, IMAGES)
  status = generator.choice(["ok", "unparsed", "unscored"], ROWS, p=[0.97, 0.02, 0.01])
  ok = status == "ok"
  valid = ok & (generator.random(ROWS) < 0.85)
  names = np.array([f"skill {k}" for k in range(SKILLS)], object)
  picked = (SKILLS * generator.random((ROWS, 5)) ** 2).astype(int)
  counts = generator.integers(1, 6, ROWS)
  words = generator.integers(0, PREFIXES, ROWS)
  things = generator.integers(0, 5000, ROWS)
  return pd.DataFrame(
    {
      "image_id": np.char.add("image-", image.astype(str)).astype(object),
      "status": status.astype(object),
      "question": [f"w{w} is thing {t}?" for w, t in zip(words, things)],
      "valid": pd.array(valid, "boolean"),
      "correct": pd.array(generator.random(ROWS) > odds[image], "boolean"),
      "skills": [
        names[p[:c]].tolist() if v else None for p, c, v in zip(picked, counts, valid)
      ],
    }
  )


def embeddings() -> np.ndarray:
  """As the peer makes them: sentence embeddings have a common direction too."""
  shape = (ROWS, WIDTH)
  vectors = np.random.default_rng(1).standard_normal(shape, np.float32)
  vectors[:, 0] += 20
  return vectors


def timed(call):
  start = time.perf_counter()
  value = call()
  return time.perf_counter() - start, value


def published(folder: str, form: str, n: int) -> str:
  """Seconds and value of the package's own function, or why there are none."""
  code = f"import sys; sys.path.insert(0, {folder!r}){PEER}"
  command = [sys.executable, "-c", code, form, str(n)]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    lines = done.stderr.strip().splitlines() or [f"killed: {done.returncode}"]
    return f"does not run: {lines[-1]}"
  seconds, value = json.loads(done.stdout)
  return f"{seconds:8.2f} s   {value:.4f}"


def peers() -> None:
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    command += ["--target", folder, "vendi-score==0.0.3"]
    if subprocess.run(command, capture_output=True).returncode:
      print("published vendi-score: pip could not bring it")
      return
    for form, n in (("score_dual", ROWS), ("score_X", FEW)):
      print(f"published {form:>10} {n:>9,} rows {published(folder, form, n)}")


def main() -> None:
  df = rows()
  parts = {
    "rates": lambda: metrics.rates(df),
    "distinct failures": lambda: metrics.distinct_failures(df),
    "curve": lambda: metrics.cumulative(df),
    "rates of skills": lambda: metrics.skill_table(df, more_than=100),
    "comparison": lambda: metrics.compare(df, df.iloc[: ROWS // 2]),
    "comparison of skills": lambda: metrics.compare_skills(df, df.iloc[: ROWS // 2]),
    "summary without SD": lambda: metrics.summarise(df, common_n=ROWS // 2),
  }
  seconds = {}
  for name, call in parts.items():
    seconds[name], _ = timed(call)
    print(f"{name:>22} {seconds[name]:8.2f} s", flush=True)
  del df
  vectors = embeddings()
  seconds["vendi"], value = timed(lambda: metrics.vendi(vectors))
  print(f"{'vendi':>22} {seconds['vendi']:8.2f} s   {value:.4f}", flush=True)
  few = vectors[:FEW]
  took, value = timed(lambda: metrics.vendi(few))
  print(f"{f'vendi, {FEW:,} rows':>22} {took:8.2f} s   {value:.4f}", flush=True)
  # KiB on Linux; of this process, its children apart.
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  del vectors, few
  peers()
  found = {
    "rows": ROWS,
    "rates_seconds": round(seconds["rates"], 2),
    "vendi_seconds": round(seconds["vendi"], 2),
    "peak_rss_mb": round(peak),
    "summary_seconds": round(seconds["summary without SD"], 2),
  }
  print(json.dumps(found))


if __name__ == "__main__":
  main()
