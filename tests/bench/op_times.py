"""Where the time of a compiled program goes: its operations, traced and named.

The profiler's trace has the seconds of every operation by its name in the optimised
HLO; the HLO has, for each, the stack of functions that it comes from.
"""

import collections
import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Op(NamedTuple):
  """One operation of a program.

  Attributes:
    name: of its line in the HLO.
    path: what JAX calls it: "jit(update)/…/transpose(jvp())/…/dot_general".
    functions: the qualified names of its stack, outermost first.
    text: its line in the HLO.
    product: it is, or holds, a matrix product.
    calls: how often it ran.
    seconds: in sum.
  """

  name: str
  path: str
  functions: tuple[str, ...]
  text: str
  product: bool
  calls: int
  seconds: float


_TABLES = ("FunctionNames", "FileLocations", "StackFrames")
# These hold others, which are counted by themselves.
_CONTAINERS = re.compile(r"\b(while|conditional|call)\(")


def _stacks(text: str) -> dict[int, tuple[str, ...]]:
  """Frame id -> names of functions, outermost first."""
  tables = {}
  for name in _TABLES:
    lines = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
    rows = lines.group(1).splitlines() if lines else []
    tables[name] = {int(n): rest for n, _, rest in (row.partition(" ") for row in rows)}
  functions, locations, frames = (tables[name] for name in _TABLES)

  def number(row: str, field: str) -> int:
    return int(re.search(rf"{field}=(\d+)", row).group(1))

  stacks = {}
  for frame in frames:
    names, at = [], frame
    while True:
      location = locations[number(frames[at], "file_location_id")]
      names.append(functions[number(location, "function_name_id")].strip('"'))
      at = number(frames[at], "parent_frame_id") - 1  # it counts from 1, 0 is none
      if not at:
        break
    stacks[frame] = tuple(reversed(names))
  return stacks


def _operations(text: str) -> dict[str, Op]:
  stacks, found, products, computation = _stacks(text), {}, {}, ""
  for line in text.splitlines():
    if line.endswith("{") and (head := re.match(r"(?:ENTRY )?%([\w.\-]+) \(", line)):
      computation = head.group(1)
    instruction = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = ", line)
    if not instruction:
      continue
    path = re.search(r'op_name="([^"]*)"', line)
    frame = re.search(r"stack_frame_id=(\d+)", line)
    name = instruction.group(1)
    found[name] = op = Op(
      name,
      path.group(1) if path else "",
      stacks[int(frame.group(1))] if frame else (),
      line.strip(),
      " dot(" in line,
      0,
      0.0,
    )
    called = re.search(r"calls=%([\w.\-]+)", line)
    if op.product:
      products[computation] = op
    elif called and called.group(1) in products:
      # What a fusion is for is the product in it, whatever it ends with.
      inner = products[called.group(1)]
      if inner.path:
        op = op._replace(path=inner.path, functions=inner.functions)
      op = op._replace(product=True)
    if not op.path and not _CONTAINERS.search(line):
      # A rewritten product has lost its name; it belongs where its operands do.
      for operand in re.findall(r"%([\w.\-]+)", line.partition("metadata=")[0])[1:]:
        if operand in found and found[operand].path:
          path, functions = found[operand].path, found[operand].functions
          op = op._replace(path=path, functions=functions)
          break
    found[name] = op
  return found


def trace(compiled: Any, call: Callable[[], Any]) -> list[Op]:
  """The operations that ran in one call, the longest first.

  Args:
    compiled: from `jit(f).lower(...).compile()`.
    call: runs it, and nothing else that is compiled, once.
  """
  operations = _operations(compiled.as_text())
  seconds, calls = collections.Counter(), collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(call())
    (file,) = pathlib.Path(folder).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
  for event in events:
    name = event.get("args", {}).get("hlo_op")
    if name in operations and not _CONTAINERS.search(operations[name].text):
      seconds[name] += event["dur"] * 1e-6
      calls[name] += 1
  return [
    operations[name]._replace(seconds=time, calls=calls[name])
    for name, time in seconds.most_common()
  ]


def total(ops: list[Op], *keys: Callable[[Op], str]) -> dict[tuple[str, ...], float]:
  """Seconds summed by what the functions `keys` say of each operation."""
  sums = collections.Counter()
  for op in ops:
    sums[tuple(key(op) for key in keys)] += op.seconds
  return dict(sums.most_common())
