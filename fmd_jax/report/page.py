"""The report's page: what stands where."""

import base64
import hashlib
import json
import pathlib
from typing import Any

import jinja2
import pandas as pd
from etils import epath
from markupsafe import Markup

from fmd_jax.metrics import TIERS
from fmd_jax.records.files import write_atomic
from fmd_jax.report import (
  analyses,
  browser,
  confirmed,
  curves,
  failures,
  judges,
  pictures,
  planted,
  skills,
  summary,
  unscored,
)
from fmd_jax.report.parts import said, text_of
from fmd_jax.report.reading import Run, read_run

SKILLS, EXAMPLES = 6, 4  # shown: worst groups, pictures of each
_SCRIPTS = ("page.js", "browser.js")


def build(
  workdir: epath.PathLike, max_failures: int = browser.MAX_FAILURES, tier: int = 1
) -> str:
  """Writes `report/index.html` of a workdir: one file that needs no other.

  Only pictures stand beside it, in `report/images`, when they are too many.

  Args:
    workdir: of a run, finished or not; what is not there yet is left out.
    max_failures: in the browser of failures; more are left out, by chance.
    tier: of the failures that count (`metrics.TIERS`); the page of a tier above 1 is
      `report/tier-N.html`.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: the folder holds no run.
  """
  run = read_run(workdir, tier)
  name = f"tier-{tier}.html" if tier > 1 else "index.html"
  target = run.folder / "report" / name
  page = render(run, target.parent, max_failures)
  write_atomic(target, page.encode("utf-8", errors="replace"))
  return str(target)


def render(run: Run, target: epath.Path, max_failures: int) -> str:
  """The page as text. Whatever a model or a file said is escaped by jinja2.

  Args:
    run: what is shown.
    target: folder of the page, for pictures that are too many to be inside.
    max_failures: in the browser of failures.
  """
  templates = pathlib.Path(__file__).parent / "templates"
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(templates),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["said"] = said
  scripts = [(templates / name).read_text(encoding="utf-8") for name in _SCRIPTS]
  judged = len(run.evaluations) > 0
  rows = failures.distinct_valid(run.evaluations) if judged else pd.DataFrame()
  table = skills.table(run, rows)
  return environment.get_template("report.html").render(
    style=Markup((templates / "style.css").read_text(encoding="utf-8")),
    scripts=[Markup(script) for script in scripts],
    hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    title=f"What {run.model('answerer', 'the model')} gets wrong",
    subtitle=_subtitle(run),
    headline=[*skills.sentences(run, table), *summary.headline(run)],
    tiles=summary.tiles(run),
    calibration=summary.calibration(run),
    alarms=judges.alarms(run),
    judges=judges.beside_people(run),
    comparison=summary.comparison(run),
    evaluator=run.model("evaluator", "an independent judge"),
    intervals=summary.intervals(run),
    reasons=unscored.reasons(run),
    methods=run.methods,
    curves=curves.charts_of(run),
    diagnostics=curves.diagnostics(run),
    planted=planted.parts(run),
    analyses=analyses.parts(run),
    group_noun="skill" if failures.knows_skills(run.evaluations) else "beginning",
    groups=_worst_groups(run, rows, table),
    table=table,
    tree=skills.tree(run, rows),
    tiers=confirmed.parts(run),
    browser=browser.make(run, target, max_failures),
    identity=_identity(run),
    config=json.dumps(run.config, indent=2, ensure_ascii=False) if run.config else "",
  )


def _digest(script: str) -> str:
  """What the page's policy lets run: these scripts, and no text that became one."""
  return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _subtitle(run: Run) -> str:
  started = str(run.manifest.get("started", ""))[:10]
  asked = sum(len(rows) for rows in run.asked.values())
  images = {image for rows in run.asked.values() for image in rows["image_id"]}
  tier = f"only failures of tier {run.tier} or higher: {TIERS[run.tier]}"
  parts = [
    tier if run.tier > 1 else "",
    started,
    ", ".join(m.label for m in run.methods),
  ]
  if asked:
    parts.append(f"{asked:,} questions about {len(images):,} pictures while running")
  return " · ".join(part for part in parts if part)


def _worst_groups(
  run: Run, rows: pd.DataFrame, table: list[skills.Row]
) -> list[dict[str, Any]]:
  """The worst groups that have failures to show, with pictures of them."""
  labels = {method.name: method.label for method in run.methods}
  groups, used, known = [], set(), {}
  for found in table:
    chosen = failures.examples(rows, found.name, EXAMPLES, used)
    if not len(chosen) or len(groups) == SKILLS:
      continue
    cards = []
    for row in chosen.to_dict("records"):
      image = row["image_id"]
      if image not in known:
        known[image] = pictures.picture(run.folder, image)
      truth = text_of(row.get("truth"))
      card = {key: row[key] for key in ("image_id", "question", "answer")}
      # With the truth beside it, the judge's reasons only repeat it.
      card |= {"truth": truth, "picture": known[image]}
      card["rationale"] = "" if truth else text_of(row.get("rationale"))
      card["method"] = labels.get(row["method"], row["method"])
      cards.append(card)
    groups.append({"found": found, "cards": cards})
  return groups


def _identity(run: Run) -> list[tuple[str, str]]:
  manifest = run.manifest
  dirty = " with local changes" if manifest.get("git_dirty") else ""
  found = [
    ("Run", manifest.get("run_id")),
    ("Started", manifest.get("started")),
    ("Command", " ".join(manifest.get("argv", []))),
    (
      "Commit",
      f"{manifest['git_commit']}{dirty}" if manifest.get("git_commit") else "",
    ),
    ("Resumed", f"{len(manifest['resumes'])} times" if manifest.get("resumes") else ""),
  ]
  for role in manifest.get("models", {}):
    found.append((role.capitalize(), run.model(role, "")))
  seeds = manifest.get("seeds", {})
  found.append(("Seeds", ", ".join(f"{key} {value}" for key, value in seeds.items())))
  packages = manifest.get("packages", {})
  found.append(("Packages", ", ".join(f"{k} {v}" for k, v in packages.items())))
  return [(key, str(value)) for key, value in found if value]
