"""Rollout tokens a second, ours against transformers' generate and vLLM on this CPU.

    python -m tests.bench.sample              # both sizes, G = 8 and 16: minutes
    python -m tests.bench.sample --quick      # small, G = 8, once
    python -m tests.bench.sample --make-vllm  # makes vLLM's environment first (2.5 GB)

One 640 x 480 image (391 tokens) and the questioner's prompt, G responses of exactly 80
tokens, fp32, the same folder of random weights and the same cores for all; the time is
that of a whole call, image included. Runs take turns, medians count. `speedup_*` is
against the faster peer, `speedup_hf_*` and `speedup_vllm_*` against each.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from flax import nnx

from fmd_jax import models, prompts
from fmd_jax.models.processor import Processor
from fmd_jax.questioner.inputs import make_inputs
from fmd_jax.questioner.sampler import make_sampler

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # run as a script

from tests.bench import folders, vllm_env

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path("~/.cache/fmd_jax").expanduser()
TOKENS = 80


class Peer:
  """`sample_peer.py`, ready to answer."""

  def __init__(self, name: str, python: str, folder: str, arrays: str):
    self._process = subprocess.Popen(
      [python, HERE / "sample_peer.py", name],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, "PYTHONPATH": ""},
    )
    self.version = self._ask(folder=folder, arrays=arrays)["version"]

  def __call__(self, group: int, tokens: int) -> float:
    """Seconds of G responses."""
    answer = self._ask(group=group, tokens=tokens)
    if answer["lengths"] != [tokens] * group:
      raise RuntimeError(f"{answer['lengths']} tokens, not {group} times {tokens}")
    return answer["seconds"]

  def _ask(self, **order) -> dict:
    print(json.dumps(order), file=self._process.stdin, flush=True)
    answer = self._process.stdout.readline()
    if not answer:
      sys.exit(f"the peer's process ended: code {self._process.wait()}; see above")
    return json.loads(answer)

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()


class Ours:
  """The sampler of one folder."""

  version = f"jax {jax.__version__}"

  def __init__(self, folder: pathlib.Path, arrays: dict[str, np.ndarray]):
    model = models.load(folder)
    self._config = model.config
    self._graphdef, self._params = nnx.split(model)
    ids = arrays["input_ids"]
    inputs = make_inputs(
      ids,
      np.array([ids.shape[1]], np.int32),
      arrays["pixel_values"],
      arrays["image_grid_thw"],
      model.config,
    )
    # The peers have tensors of their own, too.
    self._inputs = jax.device_put(inputs)
    self._samplers = {}

  def __call__(self, group: int, tokens: int) -> float:
    """Seconds of G responses."""
    config = self._config
    if (group, tokens) not in self._samplers:
      self._samplers[group, tokens] = make_sampler(
        self._graphdef,
        group_size=group,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        temperature=1.0,
        allowed_tokens=models.sampleable_tokens(config, ()),
        eos_ids=config.eos_token_ids,
        pad_id=config.pad_token_id,
      )
    sample = self._samplers[group, tokens]
    start = time.perf_counter()
    samples = sample(self._params, *self._inputs, jax.random.key(0))
    lengths = np.asarray(samples.lengths)
    seconds = time.perf_counter() - start
    if (lengths != tokens).any():
      raise RuntimeError(f"{lengths.tolist()} tokens, not {tokens}")
    return seconds

  def close(self) -> None:
    """Nothing to end."""


def prompt_arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The prompt as the processor gives it, unpadded, and the picture itself."""
  rng = np.random.default_rng(0)
  width, height = folders.IMAGE
  picture = rng.integers(0, 256, (height, width, 3), np.uint8)
  processor = Processor.from_folder(folder)
  encoded = processor.encode([prompts.render("questioner", k=2)], [[picture]])
  return {
    "input_ids": encoded.input_ids[:, : encoded.lengths[0]],
    "pixel_values": encoded.pixel_values,
    "image_grid_thw": encoded.image_grid_thw,
    "picture": picture,
    "image_token_id": np.array(models.load(folder).config.image_token_id),
  }


def measure(
  size: str, groups: list[int], tokens: int, repeats: int, vllm: pathlib.Path | None
) -> dict[int, dict[str, float]]:
  """Median seconds by G and by who; vLLM takes part when its environment is given."""
  folder = folders.make(size, CACHE / f"bench-{size}")
  with tempfile.TemporaryDirectory() as temporary:
    arrays = prompt_arrays(folder)
    file = pathlib.Path(temporary) / "prompt.npz"
    np.savez(file, **arrays)
    runs = {"ours": Ours(folder, arrays)}
    runs["hf"] = Peer("hf", sys.executable, str(folder), str(file))
    if vllm is not None:
      runs["vllm"] = Peer("vllm", str(vllm), str(folder), str(file))
    seconds = {}
    for group in groups:
      times = {name: [] for name in runs}
      for repeat in range(-1, repeats):
        for name, run in runs.items():
          took = run(group, tokens)
          if repeat >= 0:  # the first compiles
            times[name].append(took)
      seconds[group] = {n: statistics.median(t) for n, t in times.items()}
    print(f"{size}: " + "; ".join(run.version for run in runs.values()), flush=True)
    for run in runs.values():
      run.close()
  return seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="small, G = 8, once")
  parser.add_argument("--sizes", nargs="+", default=list(folders.SIZES))
  parser.add_argument("--groups", nargs="+", type=int, default=[8, 16])
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--make-vllm", action="store_true", help="make its environment")
  parser.add_argument("--vllm", type=pathlib.Path, default=vllm_env.FOLDER)
  options = parser.parse_args()
  if options.quick:
    options.sizes, options.groups, options.repeats = ["small"], [8], 1
  if options.make_vllm:
    vllm_env.make(options.vllm)
  vllm = vllm_env.python(options.vllm)

  result, rows = {"tokens": TOKENS}, []
  for size in options.sizes:
    measured = measure(size, options.groups, TOKENS, options.repeats, vllm)
    for group, seconds in measured.items():
      ours, name = seconds.pop("ours"), f"{size}_g{group}"
      result[f"speedup_{name}"] = min(seconds.values()) / ours
      result[f"tokens_per_second_{name}"] = group * TOKENS / ours
      for peer in ("hf", "vllm"):
        ratio = seconds[peer] / ours if peer in seconds else None
        result[f"speedup_{peer}_{name}"] = ratio
      rates = [group * TOKENS / seconds[p] for p in ("hf", "vllm") if p in seconds]
      rows.append((size, group, group * TOKENS / ours, *rates))

  print(f"\nTokens a second, {TOKENS} tokens a response")
  print(f"{'size':8} {'G':>3} {'ours':>8} {'hf':>8} {'vllm':>8}")
  for size, group, *rates in rows:
    cells = [f"{rate:8.0f}" for rate in rates] + ["       -"] * (3 - len(rates))
    print(f"{size:8} {group:3} {' '.join(cells)}")
  if vllm is None:
    print("vLLM did not take part; --make-vllm makes its environment (2.5 GB).")
  print(json.dumps(result))


if __name__ == "__main__":
  main()
