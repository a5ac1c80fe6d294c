"""Which recorded questions the evaluator is asked about, and what that costs."""

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from jaxtyping import Int
from PIL import Image

from fmd_jax import prompts
from fmd_jax.inference import BudgetError
from fmd_jax.records.reader import methods, read

SPLITS = ("train", "heldout")
# Rules of thumb for an estimate: characters of English a token, pixels a side of a
# visual token (Qwen's 28), and the tokens of a verdict without reasoning.
_CHARACTERS, _SIDE, _VERDICT = 4, 28, 160

Key = tuple[str, str, str]


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

  def check(self, calls: float = 0, usd: float = 0) -> None:
    """Refuses what is sure to be too dear, before anything is asked; 0 is no limit.

    Raises:
      BudgetError: names the sample that would fit.
    """
    share = calls / self.calls if calls and self.calls else 1.0
    if usd and self.usd is None:
      raise BudgetError("a limit in dollars needs prices: --usd_in and --usd_out")
    if usd and self.usd:
      share = min(share, usd / self.usd)
    if share < 1:
      raise BudgetError(
        f"the evaluation needs {self}, more than it may; "
        f"--sample={math.floor(share * self.calls)} would fit"
      )

  def __str__(self) -> str:
    usd = "no prices given" if self.usd is None else f"about {self.usd:,.2f} USD"
    return (
      f"{self.calls:,} calls, about {self.input_tokens:,} tokens in and "
      f"{self.output_tokens:,} out, {usd}"
    )


def make_plan(workdir: epath.PathLike, sample: int = 0, seed: int = 0) -> Plan:
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
  workdir: epath.PathLike, keys: Sequence[Key], price: Sequence[float] = (0.0, 0.0)
) -> Cost:
  """What it costs to have these judged, if each is understood at once.

  Args:
    workdir: with the images.
    keys: to be judged.
    price: US dollars for a million tokens read, and written; 0 is unknown.
  """
  fixed = _characters(prompts.render("evaluator", question="", answer=""))
  images: dict[str, int] = {}
  tokens_in = 0.0
  for image_id, question, answer in keys:
    if image_id not in images:
      images[image_id] = _visual_tokens(
        (epath.Path(workdir) / "images" / f"{image_id}.png").read_bytes()
      )
    text = (fixed + len(question) + len(answer)) / _CHARACTERS
    tokens_in += text + images[image_id]
  tokens_out = _VERDICT * len(keys)
  usd = None
  if any(price):
    usd = (tokens_in * price[0] + tokens_out * price[1]) / 1e6
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
