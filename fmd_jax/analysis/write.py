"""All analyses that some runs allow, each as CSV and, where it has one, as a figure.

`analysis/index.json` lists them in order: name, title, what (the paper's table or
figure), note, csv, figures (file names). A table that these runs don't allow is listed
with its reason in place of a csv.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from absl import logging
from etils import epath
from tqdm import tqdm

from fmd_jax import metrics
from fmd_jax.analysis import (
  coverage,
  dynamics,
  evolution,
  figures,
  hacking,
  modes,
  overview,
  recovery,
  skills,
)
from fmd_jax.analysis.rows import arms, describe, read
from fmd_jax.records.files import write_atomic

FOLDER = "analysis"
Figures = Mapping[str, str]


def write(
  workdirs: Sequence[epath.Path],
  embed: overview.Embed,
  censuses: Mapping[str, Mapping[str, Any] | None],
) -> epath.Path:
  """Analyses some runs together.

  Args:
    workdirs: of finished runs, with a taxonomy or with the oracle's skills. The files
      go into `analysis/` of the first.
    embed: texts to vectors [N, E].
    censuses: workdir -> the census of its answerer (cell -> rate, planted) or None.

  Returns:
    The folder.

  Raises:
    FileNotFoundError: a run has no evaluations.
  """
  folder = workdirs[0] / FOLDER
  rows, runs = read(workdirs), describe(workdirs)
  rows["answerer"] = rows["workdir"].map(dict(zip(runs["workdir"], runs["answerer"])))
  book = _Book(folder)
  parts = _parts(workdirs, rows, runs, overview.Diversity(embed), censuses)
  for name, title, what, make in tqdm(parts, desc="analyse"):
    book.add(name, title, what, make)
  book.close()
  return folder


def _parts(workdirs, rows, runs, diversity, censuses):
  """(name, title, of the paper, function -> (table, figures)), in reading order."""

  def plain(function: Callable[..., pd.DataFrame], *arguments):
    return lambda: (function(*arguments), {})

  def bars(function, value, title):
    def make():
      table = function(rows)
      return table, {"": figures.bars(table, value, title)}

    return make

  def by_protocol(function, draw, *arguments):
    def make():
      table = function(rows, *arguments)
      if table.empty:
        return table, {}
      return table, {p: draw(own) for p, own in table.groupby("protocol", sort=False)}

    return make

  return [
    (
      "overview",
      "Methods beside each other",
      "tables 1, 4, 5, 6, 7",
      plain(overview.table, rows, runs, diversity),
    ),
    (
      "failure_rate_per_skill",
      "Mean failure rate of the skills",
      "table 2",
      bars(skills.failure_rate_per_skill, "rate", "mean failure rate of a skill"),
    ),
    (
      "exclusive_skills",
      "Skills that only RL asks about, or misses",
      "table 3",
      lambda: (_each_protocol(rows, skills.exclusive), {}),
    ),
    (
      "answerers",
      "What is hard for every answerer, and what for some",
      "tables 8, 9",
      lambda: (_answerers(rows, runs), {}),
    ),
    (
      "meta_skills",
      "Failure rate and diversity of each meta-skill",
      "figure 5",
      by_protocol(overview.per_meta_skill, figures.radar, diversity),
    ),
    (
      "skills_per_method",
      "Skills asked about",
      "figure 6",
      bars(skills.skills_per_method, "skills", "skills with more than 20 questions"),
    ),
    (
      "combinations",
      "Unique skill combinations",
      "figure 7a",
      bars(skills.combinations, "combinations", "unique skill combinations"),
    ),
    (
      "complexity",
      "Skills that a question needs",
      "figure 7b",
      by_protocol(skills.complexity, figures.complexity),
    ),
    (
      "failure_curve",
      "Failures against questions asked",
      "figure 8",
      by_protocol(dynamics.failure_curve, figures.failure_curve),
    ),
    (
      "density",
      "Meta-skills over training",
      "figure 9",
      lambda: _while_training(rows, dynamics.density, figures.density),
    ),
    (
      "emergence",
      "Skills: persistent, early-peaking or late-emerging",
      "figure 9",
      plain(dynamics.emergence, rows),
    ),
    (
      "one_image",
      "One image's questions through training",
      "figure 10",
      lambda: _while_training(rows, evolution.one_image, figures.evolution),
    ),
    (
      "trends",
      "Whether questions get longer, deeper, finer",
      "figure 10",
      plain(evolution.trends, rows),
    ),
    (
      "modes",
      "Failure modes, worst first",
      "",
      lambda: _modes(rows, censuses),
    ),
    (
      "skill_ranking",
      "Skills, worst first, ranked on one half of the images",
      "",
      lambda: (_ranking(rows), {}),
    ),
    (
      "recovery",
      "Skills recovered, against the true ones",
      "",
      lambda: (_recovery(rows), {}),
    ),
    ("richness", "How much is left to find", "", plain(coverage.richness, rows)),
    (
      "rarefaction",
      "Kinds found among so many questions",
      "",
      by_protocol(coverage.curves, figures.rarefaction),
    ),
    (
      "hacking",
      "Signs of reward hacking",
      "",
      lambda: _hacking(workdirs, rows),
    ),
  ]


def _each_protocol(rows: pd.DataFrame, function) -> pd.DataFrame:
  parts = [
    function(own).assign(protocol=protocol)
    for protocol, own in rows.groupby("protocol", sort=False)
  ]
  return pd.concat(parts, ignore_index=True)


def _answerers(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
  questioner = rows["workdir"].map(dict(zip(runs["workdir"], runs["questioner"])))
  parts = [
    skills.across_answerers(own, own["answerer"].tolist()).assign(
      questioner=name, method=method, protocol=protocol
    )
    for (name, method, protocol), own in rows.groupby(
      [questioner, "method", "protocol"], sort=True, dropna=False
    )
  ]
  return pd.concat(parts, ignore_index=True)


def _while_training(rows, analyse, draw) -> tuple[pd.DataFrame, Figures]:
  """A table and a figure of each arm that asked in more than one step."""
  parts, drawn = [], {}
  for arm, protocol, own in arms(rows):
    if protocol == "during" and own["step"].nunique() > 1:
      table = analyse(own)
      parts.append(table.assign(arm=arm))
      if len(table):
        drawn[arm] = draw(table)
  return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()), drawn


def _modes(rows: pd.DataFrame, censuses) -> tuple[pd.DataFrame, Figures]:
  """Of each answerer, over all methods and protocols together."""
  parts, drawn = [], {}
  for answerer, own in rows.groupby("answerer", dropna=False, sort=True):
    table = modes.rank(own)
    census = censuses.get(own["workdir"].iloc[0])
    if census and len(table):
      table = modes.match_planted(table, recovery.true_skill_of(own), census)
    parts.append(table.assign(answerer=answerer))
    if len(table):
      drawn[str(answerer)] = figures.modes(table)
  return pd.concat(parts, ignore_index=True), drawn


def _ranking(rows: pd.DataFrame) -> pd.DataFrame:
  parts = [
    metrics.skill_table(own).assign(arm=arm, protocol=protocol)
    for arm, protocol, own in arms(rows)
  ]
  return pd.concat(parts, ignore_index=True)


def _recovery(rows: pd.DataFrame) -> pd.DataFrame:
  found = recovery.score(rows)
  if found is None:
    return pd.DataFrame()
  logging.info(
    "skills against the true ones: AMI %.3f, shuffled %.3f, ARI %.3f; recall %.3f, "
    "precision %.3f; missed: %s",
    *(found[key] for key in ("ami", "shuffled", "ari", "recall", "precision")),
    ", ".join(found["missed"]) or "none",
  )
  numbers = {k: v for k, v in found.items() if k not in ("skills", "missed")}
  head = pd.DataFrame([numbers | {"missed": ", ".join(found["missed"])}])
  return pd.concat([head, pd.DataFrame(found["skills"])], ignore_index=True)


def _hacking(workdirs, rows) -> tuple[pd.DataFrame, Figures]:
  both = hacking.judged(workdirs, rows)
  if both.empty:
    return pd.DataFrame(), {}
  table = hacking.panel(both)
  drawn = {"": figures.hacking(table)} if (table["window"] >= 0).any() else {}
  return table, drawn


class _Book:
  """Files of an analysis folder and their index."""

  def __init__(self, folder: epath.Path):
    self._folder, self._index = folder, []
    folder.mkdir(parents=True, exist_ok=True)

  def add(self, name: str, title: str, what: str, make) -> None:
    entry = {"name": name, "title": title, "what": what, "csv": None, "figures": {}}
    table, drawn = make()
    if table.empty:
      entry["note"] = "these runs do not allow it"
    else:
      entry["csv"] = f"{name}.csv"
      write_atomic(self._folder / entry["csv"], table.to_csv(index=False).encode())
    for key, svg in drawn.items():
      safe = "".join(c if c.isalnum() or c in "-." else "_" for c in str(key))
      file = f"{name}.{safe}.svg" if safe else f"{name}.svg"
      write_atomic(self._folder / file, svg.encode())
      entry["figures"][str(key)] = file
    self._index.append(entry)

  def close(self) -> None:
    text = json.dumps(self._index, indent=1, ensure_ascii=False) + "\n"
    write_atomic(self._folder / "index.json", text.encode())
