"""Which recorded questions the evaluator is asked about, and what that costs."""

import io
import math
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int
from PIL import Image

from fmd_jax import prompts
from fmd_jax.inference import Generator, Reply, Request
from fmd_jax.records.reader import methods, read

SPLITS = ("train", "heldout")
# Rules of thumb for an estimate: characters of English a token, pixels a side of a
# visual token (Qwen's 28), and the tokens of a verdict without reasoning.
_CHARACTERS, _SIDE, _VERDICT = 4, 28, 160
_MILLION = 1e6

Key = tuple[str, str, str]


class BudgetError(RuntimeError):
  """An evaluation that would cost, or has cost, more than it may."""


class Plan(NamedTuple):
  """What is judged.

  Attributes:
    tables: name of the file ("grpo", "grpo_heldout") -> its rows in the order of
      asking, with `place`, the number of rows asked before each.
    asked: name -> how many rows there are in all.
    sample: how many rows were asked for; 0 is all of them.
    seed: of the sample.
  """

  tables: dict[str, pd.DataFrame]
  asked: dict[str, int]
  sample: int
  seed: int

  @property
  def rows(self) -> int:
    return sum(map(len, self.tables.values()))

  def keys(self) -> list[Key]:
    """The distinct (image, question, answer) that a judge can be asked about."""
    found: dict[Key, None] = {}
    for table in self.tables.values():
      rows = zip(table["image_id"], table["question"], table["answer"])
      found |= dict.fromkeys(row for row in rows if row[1] and isinstance(row[2], str))
    return list(found)


class Cost(NamedTuple):
  """What a judge is still to be asked; tokens are estimates."""

  calls: int
  input_tokens: int
  output_tokens: int
  usd: float | None

  def __str__(self) -> str:
    usd = "no prices given" if self.usd is None else f"about {self.usd:,.2f} USD"
    return (
      f"{self.calls:,} calls, about {self.input_tokens:,} tokens in and "
      f"{self.output_tokens:,} out, {usd}"
    )


class Budget(NamedTuple):
  """What an evaluation may cost, and what a token costs; 0 is no limit, no price.

  Attributes:
    max_calls: requests to the judge, repeated ones included.
    max_usd: needs the prices.
    usd_in, usd_out: price of a million tokens read and written.
  """

  max_calls: int = 0
  max_usd: float = 0.0
  usd_in: float = 0.0
  usd_out: float = 0.0

  def usd(self, tokens_in: float, tokens_out: float) -> float | None:
    if not (self.usd_in or self.usd_out):
      return None
    return (tokens_in * self.usd_in + tokens_out * self.usd_out) / _MILLION

  def check(self, cost: Cost) -> None:
    """Refuses what is sure to be too dear, before anything is asked.

    Raises:
      BudgetError: names the limit and the sample that would fit.
    """
    if self.max_usd and cost.usd is None:
      raise BudgetError("a limit in USD needs prices: give --usd_in and --usd_out")
    share = 1.0
    if self.max_calls and cost.calls:
      share = min(share, self.max_calls / cost.calls)
    if self.max_usd and cost.usd:
      share = min(share, self.max_usd / cost.usd)
    if share < 1:
      raise BudgetError(
        f"the evaluation needs {cost}, more than the budget; "
        f"--sample={math.floor(share * cost.calls)} would fit"
      )


def make_plan(workdir: pathlib.Path, sample: int = 0, seed: int = 0) -> Plan:
  """Reads the records and draws the sample.

  The sample is stratified by method and split: as many rows of each, as far as it has
  them, drawn without replacement. A larger sample of the same seed holds the smaller.

  Args:
    workdir: of a run with records.
    sample: how many rows in all; 0 is every one.
    seed: of the draw.

  Raises:
    ValueError: the sample leaves a method without a row, or there are no records.
  """
  tables = {}
  for split in SPLITS:
    for method in methods(workdir, split):
      rows = read(workdir, method, split).reset_index(drop=True)
      name = method if split == "train" else f"{method}_heldout"
      tables[name] = rows.assign(place=np.arange(len(rows)))
  if not tables:
    raise ValueError(f"{workdir} holds no records to evaluate")
  asked = {name: len(rows) for name, rows in tables.items()}
  if sample:
    if sample < len(tables):
      raise ValueError(
        f"a sample of {sample} has no question for each of {', '.join(tables)}"
      )
    sizes = allocate(asked, sample)
    for name, rows in tables.items():
      drawn = draw(name, len(rows), sizes[name], seed)
      tables[name] = rows.iloc[drawn].reset_index(drop=True)
  return Plan(tables, asked, sample, seed)


def allocate(sizes: Mapping[str, int], total: int) -> dict[str, int]:
  """Shares `total` equally; what one cannot take goes to the larger ones."""
  out = {}
  for place, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
    share = (total - sum(out.values())) // (len(sizes) - place)
    out[name] = min(sizes[name], share)
  return out


def draw(name: str, n: int, size: int, seed: int) -> Int[np.ndarray, "size"]:
  """`size` of n places, ascending; the first of one shuffle, so samples are nested."""
  generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
  return np.sort(generator.permutation(n)[:size])


def estimate(
  workdir: pathlib.Path, keys: Sequence[Key], budget: Budget | None = None
) -> Cost:
  """What it costs to have these judged, without asking again what cannot be read."""
  fixed = _characters(prompts.render("evaluator", question="", answer=""))
  images: dict[str, int] = {}
  tokens_in = 0.0
  for image_id, question, answer in keys:
    if image_id not in images:
      images[image_id] = _visual_tokens(
        (workdir / "images" / f"{image_id}.png").read_bytes()
      )
    text = (fixed + len(question) + len(answer)) / _CHARACTERS
    tokens_in += text + images[image_id]
  tokens_out = _VERDICT * len(keys)
  usd = (budget or Budget()).usd(tokens_in, tokens_out)
  return Cost(len(keys), round(tokens_in), tokens_out, usd)


def _characters(messages) -> int:
  contents = [message["content"] for message in messages]
  return sum(
    len(part.get("text", ""))
    for content in contents
    for part in ([{"text": content}] if isinstance(content, str) else content)
  )


def _visual_tokens(png: bytes) -> int:
  with Image.open(io.BytesIO(png)) as image:
    width, height = image.size
  return math.ceil(width / _SIDE) * math.ceil(height / _SIDE)


class Metered:
  """A judge that counts what it is asked and stops at the budget.

  Past the limit a request gets a reply with an error: it stays unscored, and what was
  judged before is kept.
  """

  def __init__(self, judge: Generator, budget: Budget):
    self.name, self.revision = judge.name, judge.revision
    self.calls, self.spent, self.exhausted = 0, 0.0, False
    self._judge, self._budget = judge, budget
    self._sizes: dict[bytes, int] = {}

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    allowed = list(requests)
    if self._budget.max_calls:
      allowed = allowed[: max(0, self._budget.max_calls - self.calls)]
    if self._budget.max_usd and self.spent >= self._budget.max_usd:
      allowed = []
    self.exhausted |= len(allowed) < len(requests)
    replies = self._judge.generate(allowed) if allowed else []
    self.calls += len(allowed)
    for request, reply in zip(allowed, replies):
      text = _characters(request.messages) / _CHARACTERS
      seen = sum(map(self._visual_tokens, request.images))
      written = len(reply.text) / _CHARACTERS
      self.spent += self._budget.usd(text + seen, written) or 0.0
    left = len(requests) - len(allowed)
    return [*replies, *(Reply("", error="the budget is used up") for _ in range(left))]

  def _visual_tokens(self, png: bytes) -> int:
    if png not in self._sizes:
      self._sizes[png] = _visual_tokens(png)
    return self._sizes[png]
