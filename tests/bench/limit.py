"""How near update and decoding come to this machine's limit: `-m tests.bench.limit`.

The share is the least time that the arithmetic (see costs.py) can take, at the peak of
a matrix product or of a streaming read seen in the same minutes, over the time that it
does take. A second table says what an update's time is spent on, operation by operation
from a trace. The last line is a JSON object; `update_roofline_share` and
`decode_roofline_share` are those of the larger model, G = 8.
"""

import argparse
import functools
import json
import pathlib
import sys
import time

import jax
import numpy as np
from flax import nnx

from fmd_jax.questioner import sampler

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # run as a script

from tests.bench import costs, op_times, timing, workload

GROUP = 8


def part(op: op_times.Op) -> str:
  """The part of the model that an operation belongs to."""
  names = " ".join(op.functions)
  attends = {"mix", "attend", "multiplied", "_attend"} & set(op.functions)
  if "VisionTower" in names:
    return "vision, attention" if attends else "vision, rest"
  if "token_scores" in names or "unembed" in names or "_head_" in names:
    return "head"
  if attends:
    return "attention"
  if "TextModel" in names:
    return "layers, rest"
  if "scale_by_adam" in names or "global_norm" in names or "apply_updates" in names:
    return "optimiser"
  return "other"


def stage(op: op_times.Op) -> str:
  """When it runs: for the reference, forward, again, or backward."""
  if "rematted_computation" in op.path:
    return "recomputed"
  if "transpose(" in op.path:
    return "backward"
  return "forward" if "jvp(" in op.path else "reference, once"


def kind(op: op_times.Op) -> str:
  """Whether there is a matrix product in it."""
  return "product" if op.product else "rest"


class Update:
  """The update of one case, compiled, and its state."""

  def __init__(self, case: workload.Case):
    optimizer = workload.adamw()
    update_fn = workload.make_update(case.model, optimizer)
    self.state, self.batch = workload.start(case.model, optimizer), case.batch
    self.compiled = update_fn.lower(self.state, self.batch).compile()

  def __call__(self):
    """One update."""
    self.state, metrics = self.compiled(self.state, self.batch)
    return metrics


def samplers(case: workload.Case):
  """Functions of no arguments: the prefill, and a whole sampling of `TOKENS` tokens."""
  graphdef, params = nnx.split(case.model)
  config, tokens = case.model.config, workload.TOKENS
  sample = sampler.make_sampler(
    graphdef,
    group_size=GROUP,
    max_new_tokens=tokens,
    min_new_tokens=tokens,
    temperature=1.0,
    allowed_tokens=workload.every_token(case.model),
    eos_ids=config.eos_token_ids,
    pad_id=config.pad_token_id,
  )
  arguments = (params, *case.inputs, jax.random.key(0))
  return lambda: sample.prefill(*arguments), lambda: sample(*arguments)


def profile(update: Update) -> tuple[list[list[str]], dict[str, float]]:
  """Rows of the table of parts, and the share of each stage."""
  ops = op_times.trace(update.compiled, update)
  whole = sum(op.seconds for op in ops)
  stages = ("reference, once", "forward", "recomputed", "backward")
  sums = op_times.total(ops, part, kind, stage)
  rows = []
  for name, what in dict.fromkeys(key[:2] for key in sums):
    cells = [sums.get((name, what, s), 0.0) / whole for s in stages]
    if sum(cells) >= 0.005:
      shares = (f"{100 * c:.1f}" if c >= 0.0005 else "" for c in cells)
      rows.append([f"{name}, {what}", *shares, f"{100 * sum(cells):.1f}"])
  rows.sort(key=lambda row: -float(row[-1]))
  by_stage = {s: n / whole for (s,), n in op_times.total(ops, stage).items()}
  ends = [f"{100 * by_stage.get(s, 0.0):.1f}" for s in stages]
  return [*rows, ["all", *ends, "100.0"]], by_stage


def run(
  size: str, repeats: int, clock: timing.Clock
) -> tuple[list[list[str]], dict[str, float]]:
  """Measures one size; prints the profile.

  Returns:
    rows of the table, and keys of the JSON object without the size.
  """
  case = workload.make(workload.folder(size), images=1, group=GROUP)
  shape = costs.Shape(
    images=1,
    group=GROUP,
    prompt=int(case.inputs.prompt.lengths[0]),
    tokens=workload.TOKENS,
    grids=case.grids,
  )
  update, (prefill, sample) = Update(case), samplers(case)
  peaks = timing.Peaks(int(4 * costs.weights(case.model)["all"]), clock)
  timed = functools.partial(timing.seconds, clock=clock)
  # The probes stand between the calls: what slows one turn slows all of it.
  times = timing.in_turns(
    {
      "update": lambda: timed(update),
      "peak": lambda: timed(peaks.measure),
      "prefill": lambda: timed(prefill),
      "sample": lambda: timed(sample),
      "peak again": lambda: timed(peaks.measure),
    },
    repeats + 1,
  )
  lengths = np.asarray(sample().lengths)
  if (lengths != workload.TOKENS).any():
    raise SystemExit(f"responses of {lengths.tolist()} tokens")
  seconds = timing.median({name: values[1:] for name, values in times.items()})
  flops = costs.update_flops(case.model, shape)
  by_flops = flops / peaks.flops
  by_bytes = costs.update_bytes(case.model, shape) / peaks.bandwidth
  decoding = seconds["sample"] - seconds["prefill"]
  least = costs.decode_limits(case.model, shape, peaks.flops, peaks.bandwidth)
  shares = {
    "update_roofline_share": max(by_flops, by_bytes) / seconds["update"],
    "decode_roofline_share": least / decoding,
    "matmul_gflops": peaks.flops / 1e9,
    "read_gbytes": peaks.bandwidth / 1e9,
    "update_seconds": seconds["update"],
    "update_gflop": flops / 1e9,
    "decode_seconds": decoding,
  }
  rows = [
    [
      f"{size}, update",
      f"{seconds['update']:.3f}",
      f"{by_flops:.3f}",
      f"{by_bytes:.3f}",
      f"{shares['update_roofline_share']:.2f}",
    ],
    [
      f"{size}, decode",
      f"{decoding:.3f}",
      "",
      f"{least:.3f}",
      f"{shares['decode_roofline_share']:.2f}",
    ],
  ]
  parts, by_stage = profile(update)
  print(f"\n{size}: an update's time in per cent, by part and pass")
  head = ["", "reference, once", "forward", "recomputed", "backward", "all"]
  print(timing.table(head, parts), flush=True)
  shares |= {f"{s.partition(',')[0]}_share": n for s, n in by_stage.items()}
  return rows, shares


def main():
  """Runs it; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--sizes", nargs="+", default=["small", "medium"])
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--cpu", action="store_true", help="CPU seconds of one core")
  options = parser.parse_args()
  clock = timing.one_core() if options.cpu else time.perf_counter
  rows, summary = [], {}
  for size in options.sizes:
    more, found = run(size, options.repeats, clock)
    rows += more
    # The last size is the one whose shares have no suffix.
    summary |= {f"{name}_{size}": value for name, value in found.items()}
    summary |= {n: v for n, v in found.items() if n.endswith("roofline_share")}
  print("\nSeconds, and the least they could be:")
  print(timing.table(["", "measured", "arithmetic", "reads", "share"], rows))
  print(json.dumps({name: float(f"{value:.4g}") for name, value in summary.items()}))


if __name__ == "__main__":
  main()
