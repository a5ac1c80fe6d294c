"""Seconds of one GRPO update, ours against PyTorch: `python -m tests.bench.grpo_step`.

Both sides start from one folder (about 3 and 56 million numbers, fp32) and take the
same step: the same 640 x 480 pictures (391 visual tokens), 80 forced tokens a response,
reference log-probs, loss, gradient, clip, AdamW. The vision tower is frozen, and once
trained. The peers are TRL's GRPOTrainer and the same loss written plainly over
transformers' model; before anything is timed, loss and the gradient of every tensor
are compared with the latter's. They run in an environment of their own, made when
missing (see peers.py), on the same cores, in turns with ours; medians count.

The last line is a JSON object: `speedup_<size>_g<G>` is the faster peer's seconds over
ours.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from flax import nnx

from fmd_jax import models

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # run as a script

from tests.bench import timing, workload
from tests.bench.peers import Peers, environment

TOLERANCE = 1e-4
PEERS = ("torch", "trl")
# It takes no step and keeps the gradient as its state.
RECORD = optax.GradientTransformation(
  lambda params: jax.tree.map(jnp.zeros_like, params),
  lambda gradient, state, params: (jax.tree.map(jnp.zeros_like, params), gradient),
)


def compare(case, freeze, peers, scratch):
  """Relative differences of loss and gradients from the plain peer's.

  Returns:
    |loss - theirs| / |theirs|, the largest norm of a tensor's difference over the
    tensor's, and that tensor's name.
  """
  state = workload.start(case.model, RECORD, freeze)
  state, metrics = workload.make_update(case.model, RECORD)(state, case.batch)
  gradient = nnx.to_flat_state(state.opt_state)
  untouched = jax.tree.map(jnp.zeros_like, state.frozen)
  named = nnx.merge(nnx.graphdef(case.model), nnx.from_flat_state(gradient), untouched)
  # Written like a checkpoint, it has the names and layout that the peer's has.
  models.save(named, scratch / "gradient")
  ours = safetensors.numpy.load_file(scratch / "gradient" / "model.safetensors")
  answer = peers("gradients", str(scratch / "gradient.npz"))
  theirs = np.load(scratch / "gradient.npz")
  trained = {n for n in ours if "visual" not in freeze or not n.startswith("visual.")}
  if trained != set(theirs):
    raise SystemExit(f"not the same tensors: {sorted(trained ^ set(theirs))}")
  apart = {
    name: np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name])
    for name in theirs
  }
  worst = max(apart, key=apart.get)
  loss = abs(float(metrics["grpo/loss"]) / answer["loss"] - 1)
  return loss, float(apart[worst]), worst


def write_batch(case, path):
  """The batch as the peers read it: prompts without our padding."""
  (length,) = set(case.inputs.prompt.lengths.tolist())
  np.savez(
    path,
    prompt_ids=case.inputs.prompt.input_ids[:, :length],
    pixel_values=case.inputs.pixel_values,
    image_grid_thw=case.grids,
    completions=case.batch.completions,
    old_logprobs=case.batch.old_logprobs,
    advantages=case.batch.advantages,
  )


def given(group, path, images, scratch, peers):
  """The batch of a G, which the peers are given too."""
  case = workload.make(path, images=images, group=group)
  write_batch(case, scratch / "batch.npz")
  peers("batch", str(scratch / "batch.npz"))
  return case


def ours(case, freeze, clock):
  """A function that runs our update once and returns its seconds."""
  optimizer = workload.adamw()
  update_fn = workload.make_update(case.model, optimizer)
  state = workload.start(case.model, optimizer, freeze)

  def step():
    nonlocal state
    begin = clock()
    state, metrics = jax.block_until_ready(update_fn(state, case.batch))
    return clock() - begin

  return step


def run(size, groups, images, freeze, repeats, python, clock):
  """One size: the comparison, then the seconds of each G.

  Returns:
    the rows of the table and the keys of the JSON object.
  """
  threads = len(os.sched_getaffinity(0))
  path = workload.folder(size)
  rows, results = [], {}
  with (
    tempfile.TemporaryDirectory() as scratch,
    Peers(python, threads) as peers,
  ):
    scratch = pathlib.Path(scratch)
    first = workload.make(path, images=images, group=groups[0])
    state = workload.start(first.model, workload.adamw(), freeze)
    reference = nnx.merge(nnx.graphdef(first.model), state.ref_params, state.frozen)
    models.save(reference, scratch / "reference")
    del state, reference
    settings = {
      "folder": str(path),
      "reference": str(scratch / "reference"),
      "scratch": str(scratch),
      "frozen_vision": "visual" in freeze,
      "threads": threads,
      "clock": clock.__name__,
      "max_grad_norm": workload.MAX_GRAD_NORM,
      **workload.LOSS,
      **workload.ADAMW,
    }
    trained = peers("load", settings)["trained"]
    suffix = "" if "visual" in freeze else "_vision_trained"
    compared = {}
    # All of them before any is timed: the peers' parameters move with every step.
    for group in groups:
      case = given(group, path, images, scratch, peers)
      compared[group] = compare(case, freeze, peers, scratch)
      loss, gradient, worst = compared[group]
      print(
        f"{size}_g{group}{suffix}: {trained} numbers trained; loss differs by "
        f"{loss:.1e}, the gradient by at most {gradient:.1e} (in {worst})",
        flush=True,
      )
    for group in groups:
      case = given(group, path, images, scratch, peers)
      name, (loss, gradient, _) = f"{size}_g{group}{suffix}", compared[group]
      calls = {"ours": ours(case, freeze, clock)}
      for peer in PEERS:
        calls[peer] = lambda peer=peer: peers("step", peer)["seconds"]
      timing.in_turns(calls, 1)  # compiles, and warms the allocators
      times = timing.in_turns(calls, repeats)
      middle = timing.median(times)
      results[name] = {
        "times": times,
        "loss": loss,
        "gradient": gradient,
        **{peer: middle[peer] / middle["ours"] for peer in PEERS},
      }
      # Pairs of the same turn: what the machine did to both is left out.
      fastest = min(PEERS, key=middle.get)
      pairs = [a / b for a, b in zip(times[fastest], times["ours"])]
      rows.append(
        [
          name,
          *(f"{middle[n]:.2f}" for n in calls),
          f"{results[name][fastest]:.2f}",
          f"{min(pairs):.2f}-{statistics.median(pairs):.2f}-{max(pairs):.2f}",
        ]
      )
      print(timing.table(HEAD, rows[-1:]), flush=True)
  return rows, results


HEAD = ["size, G", "ours s", "torch s", "trl s", "times faster", "of one turn"]


def main():
  """Runs it; see the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="small, G = 8, 2 repeats")
  parser.add_argument("--sizes", nargs="+", default=["small", "medium"])
  parser.add_argument("--groups", nargs="+", type=int, default=[8, 16])
  parser.add_argument("--images", type=int, default=1, help="B")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--venv", help="the peers' environment, made when missing")
  # With neighbours on the machine the only seconds that say something.
  parser.add_argument("--cpu", action="store_true", help="CPU seconds of one core")
  options = parser.parse_args()
  if options.quick:
    options.sizes, options.groups, options.repeats = ["small"], [8], 2
  clock = timing.one_core() if options.cpu else time.perf_counter
  measure = functools.partial(
    run,
    images=options.images,
    repeats=options.repeats,
    python=environment(options.venv),
    clock=clock,
  )
  rows, results = [], {}
  for size in options.sizes:
    plans = [(options.groups, ("visual",))]
    if not options.quick:
      plans.append((options.groups[:1], ()))
    for groups, freeze in plans:
      more, found = measure(size, groups, freeze=freeze)
      rows, results = rows + more, {**results, **found}
  print(f"\nSeconds of one update, B = {options.images}:")
  print(timing.table(HEAD, rows))
  summary = {}
  for name, found in results.items():
    summary[f"speedup_{name}"] = min(found[peer] for peer in PEERS)
    summary |= {f"speedup_{name}_{peer}": found[peer] for peer in PEERS}
  summary["loss_rel_diff"] = max(found["loss"] for found in results.values())
  summary["grad_rel_diff"] = max(found["gradient"] for found in results.values())
  summary["images"], summary["repeats"] = options.images, options.repeats
  print(json.dumps({k: float(f"{v:.4g}") for k, v in summary.items()}))
  if max(summary["loss_rel_diff"], summary["grad_rel_diff"]) > TOLERANCE:
    raise SystemExit(f"loss or gradients differ by more than {TOLERANCE}")


if __name__ == "__main__":
  main()
