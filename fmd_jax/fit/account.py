"""The compiler's account of a program: memory of a device, messages between devices."""

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fmd_jax import sharding

GIB = 2**30
# What XLA leaves to a program on one device; it says so itself when one is too large.
HBM = {"v4": 31.25, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25, "tpu7x": 94.75}
# By size, the ones that libtpu knows; each is a slice that can be had.
TOPOLOGIES = {
  "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
  "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
  "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
  "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
  "tpu7x": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"),
}
COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4}
_BYTES |= {"s32": 4, "u32": 4}


class Program(NamedTuple):
  """One compiled program on one device; sizes in bytes.

  Attributes:
    beside: what is on the device while it runs and no argument of it.
    arguments, output, alias, temporaries: the compiler's account; `alias` is the part
      of the output that takes the place of an argument.
    seconds: of the compilation.
    collectives: by kind, how many there are and the bytes they give; those in a loop of
      a known length count as often as it runs, others once. None: JAX can't read them.
    error: the compiler's, where the program is too large; sizes are then 0.
  """

  name: str
  beside: int
  arguments: int = 0
  output: int = 0
  alias: int = 0
  temporaries: int = 0
  seconds: float = 0.0
  collectives: dict[str, tuple[int, int]] | None = {}
  error: str = ""

  @property
  def peak(self) -> int:
    own = self.arguments + self.output - self.alias + self.temporaries
    return self.beside + own

  def fits(self, capacity: float) -> bool:
    return not self.error and self.peak <= capacity


def topology(name: str) -> list[Any]:
  """The devices of a slice, "v5e:4x4" for one, as libtpu describes it.

  Raises:
    ValueError: there is no such slice, or no libtpu.
  """
  from jax.experimental import topologies

  generation = name.split(":")[0]
  if generation not in HBM or ":" not in name:
    known = ", ".join(f"{g}:{sizes[0]}" for g, sizes in TOPOLOGIES.items())
    raise ValueError(f"no topology {name!r}; there are {known} and larger ones")
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
  except Exception as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"topology {name!r}: {reason} (is libtpu installed: pip install libtpu?)"
    ) from None


def largest(tree: Any, most: int = 8) -> str:
  """The arrays that take most of a device, a line each."""
  sizes = []
  for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
    shape = x.sharding.shard_shape(x.shape)
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    size = int(np.prod(shape)) * x.dtype.itemsize
    sizes.append((size, f"{x.dtype}{list(shape)} of {name.removesuffix('.value')}"))
  rows = sorted(sizes, reverse=True)[:most]
  return "\n".join(f"  {size / GIB:8.3f} GiB  {what}" for size, what in rows)


def compile_program(
  name: str, beside: int, function: Callable, arguments: tuple, mesh: Mesh
) -> Program:
  """Compiles one program; one that is too large is a result, not an error.

  Args:
    name: for the table.
    beside: see `Program`.
    function: jitted.
    arguments: shapes with shardings.
    mesh: whose devices it is compiled for.
  """
  begun = time.perf_counter()
  try:
    with sharding.use(mesh):
      compiled = function.lower(*arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    seconds, reason = time.perf_counter() - begun, str(error).splitlines()[0]
    return Program(name, beside, seconds=seconds, error=reason)
  seconds = time.perf_counter() - begun
  memory = compiled.memory_analysis()
  return Program(
    name,
    beside,
    memory.argument_size_in_bytes,
    memory.output_size_in_bytes,
    memory.alias_size_in_bytes,
    memory.temp_size_in_bytes,
    seconds,
    _collectives(compiled),
  )


def _collectives(compiled: Any) -> dict[str, tuple[int, int]] | None:
  try:
    return collectives(compiled.as_text())
  except jax.errors.JaxRuntimeError:
    # libtpu 0.0.52 writes asynchronous steps for v6e that jaxlib 0.10.2 can't read.
    return None


def _sizes(shapes: str) -> list[int]:
  return [
    _BYTES[kind] * int(np.prod([int(d) for d in dims.split(",") if d] or [1]))
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    if kind in _BYTES
  ]


def _trips(condition: list[str]) -> int:
  """How often a loop runs that counts up to a constant; 1 for any other."""
  text = "\n".join(condition)
  ends = re.findall(r"= s32\[\]\S* constant\((\d+)\)", text)
  counts = re.search(r"ROOT .*\bcompare\(.*direction=LT", text)
  return int(ends[0]) if counts and len(ends) == 1 else 1


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
  """Counts the messages between devices in a compiled program's text.

  Args:
    hlo: of the program of one device.

  Returns:
    By kind, how many run and the bytes of their results, see `Program`.
  """
  found, loops, caller, lines = {}, {}, {}, {}
  name = ""
  pattern = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
  for line in hlo.splitlines():
    if line and not line[0].isspace() and line.rstrip().endswith("{"):
      name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
      continue
    lines.setdefault(name, []).append(line)
    loop = re.search(r"\bwhile\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if loop:
      loops[loop[2]] = loop[1]
    for called in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
      caller[called] = name
    for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
      caller |= dict.fromkeys((b.strip(" %") for b in branches.split(",")), name)
    match = pattern.search(line)
    if match:
      # An asynchronous one's result holds its argument as well.
      size = (max if match[3] else sum)(_sizes(match[1]) or [0])
      found.setdefault(name, []).append((match[2], size))

  def times(computation: str) -> int:
    own = _trips(lines[loops[computation]]) if computation in loops else 1
    return own * (times(caller[computation]) if computation in caller else 1)

  total = {}
  for computation, calls in found.items():
    runs = times(computation)
    for kind, size in calls:
      count, so_far = total.get(kind, (0, 0))
      total[kind] = (count + runs, so_far + runs * size)
  return total


def table(compiled: list[Program], capacity: float) -> str:
  """One line a program: what a device holds in GiB, and what devices send."""
  head = ("program", "beside", "arguments", "output", "alias", "temporaries", "peak")
  rows = [(*head, "of HBM", "compile s", "collectives: count, GiB")]
  gib = lambda n: f"{n / GIB:.3f}"  # noqa: E731
  for p in compiled:
    sent = "not readable"
    if p.collectives is not None:
      sent = ", ".join(
        f"{kind} {count} {size / GIB:.2f}"
        for kind, (count, size) in p.collectives.items()
      )
    sizes = (p.beside, p.arguments, p.output, p.alias, p.temporaries, p.peak)
    shown = map(gib, sizes) if not p.error else (gib(p.beside), *"-----")
    share = f"{p.peak / capacity:.0%}" if not p.error else "too large"
    rows.append((p.name, *shown, share, f"{p.seconds:.0f}", sent or "none"))
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)) for row in rows]
  return "\n".join(line.rstrip() for line in lines)
