"""How update and sampler grow with what they are given: `-m tests.bench.growth`.

The small folder; one number grows at a time: images 1 to 64, responses an image 2 to
32, prompt 128 to 2048 tokens, response 32 to 512. Printed are the seconds, the tokens
(B images of P tokens once, and their G responses of T), and the exponent of the last
doubling: 1 is linear, attention over a long prompt is more. The last line is a JSON
object of the exponents and of the seconds a token, last over first.
"""

import argparse
import json
import math
import pathlib
import sys
import time

import jax
from flax import nnx

from fmd_jax.questioner import sampler

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # run as a script

from tests.bench import timing, workload

# A picture of 8 x 8 visual tokens, but for the shortest prompt.
BASE = {"images": 2, "group": 4, "prompt": 256, "tokens": 32, "size": (224, 224)}
SHORT = {"images": 1, "size": (112, 112)}
AXES = {
  "images": ([1, 4, 16, 64], {}),
  "group": ([2, 8, 32], {}),
  "prompt": ([128, 512, 2048], SHORT),
  "tokens": ([32, 128, 512], {}),
}


def seconds(call, repeats: int) -> float:
  """The least of a few runs, after one that compiles."""
  return min(timing.seconds(call) for _ in range(repeats + 1))


def update_of(case: workload.Case):
  """A function that runs one update."""
  optimizer = workload.adamw()
  update_fn = workload.make_update(case.model, optimizer)
  state = workload.start(case.model, optimizer)

  def step():
    nonlocal state
    state, metrics = update_fn(state, case.batch)
    return metrics

  return step


def sampler_of(case: workload.Case):
  """A function that samples the same numbers of responses and tokens."""
  graphdef, params = nnx.split(case.model)
  _, group, tokens = case.batch.completions.shape
  sample = sampler.make_sampler(
    graphdef,
    group_size=group,
    max_new_tokens=tokens,
    min_new_tokens=tokens,
    temperature=1.0,
    allowed_tokens=workload.every_token(case.model),
    eos_ids=case.model.config.eos_token_ids,
    pad_id=case.model.config.pad_token_id,
  )
  arguments = (params, *case.inputs, jax.random.key(0))
  return lambda: sample(*arguments)


PROGRAMS = {"update": update_of, "sampler": sampler_of}


def grow(path, axis: str, programs, repeats: int):
  """One axis: a row a point, and the exponents."""
  values, changes = AXES[axis]
  points = []
  for value in values:
    shape = {**BASE, **changes, axis: value}
    case = workload.make(path, **shape, score=False)
    each = shape["prompt"] + shape["group"] * shape["tokens"]
    times = {name: seconds(PROGRAMS[name](case), repeats) for name in programs}
    points.append((value, shape["images"] * each, times))
    print(f"  {axis} {value}: " + ", ".join(f"{n} {t:.3f} s" for n, t in times.items()))
    jax.clear_caches()  # of programs: 14 points are 28 of them
  rows, found = [], {}
  for i, (value, tokens, times) in enumerate(points):
    row = [f"{axis} {value}", tokens]
    for name in programs:
      cell = ""
      if i:
        before = points[i - 1]
        exponent = math.log(times[name] / before[2][name]) / math.log(value / before[0])
        cell = f"{exponent:.2f}"
        found[f"{name}_{axis}_exponent"] = exponent
      row += [f"{times[name]:.3f}", f"{1e6 * times[name] / tokens:.0f}", cell]
    rows.append(row)
  for name in programs:
    (_, few, first), (_, many, last) = points[0], points[-1]
    found[f"{name}_{axis}_seconds_a_token"] = (last[name] / many) / (first[name] / few)
  return rows, found


def main():
  """Runs it; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--axes", nargs="+", default=list(AXES))
  parser.add_argument("--programs", nargs="+", default=list(PROGRAMS))
  parser.add_argument("--repeats", type=int, default=2)
  options = parser.parse_args()
  begin, path = time.perf_counter(), workload.folder("small")
  rows, summary = [], {}
  for axis in options.axes:
    more, found = grow(path, axis, options.programs, options.repeats)
    rows, summary = rows + more, {**summary, **found}
  head = ["", "tokens"]
  for name in options.programs:
    head += [f"{name} s", "us a token", "exponent"]
  print(timing.table(head, rows))
  summary["seconds"] = time.perf_counter() - begin
  print(json.dumps({name: float(f"{value:.3g}") for name, value in summary.items()}))


if __name__ == "__main__":
  main()
