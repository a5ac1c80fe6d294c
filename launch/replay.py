"""A run's failures as a regression suite, and the suite asked of another model:

  python -m launch.replay make --workdir DIR --suite S [--failures 300] [--guards 300]
  python -m launch.replay --suite S --roles.answerer=SPEC [--workdir OUT]

`make` draws failures of a run (and questions it answered right, to see what a repair
breaks), asks the run's model each of them --asks times afresh, and freezes questions,
pictures and answers in a new folder S, hashed. The second command asks another model
as often, lets the same judge judge, and compares fresh with fresh: OUT/replay.csv,
.json, .html and answers.parquet. Both print what they cost first (--dry_run: only
that), and go on after a kill where the run keeps replies.

Exit code: 0 nothing fails more than before; 1 something does (q <= .05 over all
groups); 2 nothing was compared (a wrong command, a suite that was changed, a model that
can't be asked); 3 more answers are unscored than --max_unscored.
"""

import csv
import datetime
import json
import pathlib
import sys
import traceback

from absl import app, flags, logging
from etils import epath

from launch import _saved

_SUITE = flags.DEFINE_string("suite", None, "Folder of the suite.", required=True)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "make: of the evaluated run. Else: where results go, by default "
  "beside the suite, SUITE-replay.",
)  # fmt: skip
_ANSWERER = flags.DEFINE_string("roles.answerer", None, "The model asked: a spec.")
_EVALUATOR = flags.DEFINE_string(
  "roles.evaluator", None, "Where the suite's judge is to be found now: a spec."
)
_FAILURES = flags.DEFINE_integer("failures", 300, "make: most failures.", 1)
_GUARDS = flags.DEFINE_integer("guards", 300, "make: most that were right.", 0)
_ASKS = flags.DEFINE_integer("asks", 5, "make: fresh answers to each question.", 5)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "make: of the answers.", 0.01)
_TIER = flags.DEFINE_integer("tier", 1, "make: failures of this tier or higher.", 1, 5)
_SHARE = flags.DEFINE_float(
  "share", 1.0, "make: of the pictures; the others are left to learn from.", 0.01, 1.0
)
_VERSION = flags.DEFINE_string("version", "1", "make: what people call this suite.")
_SEED = flags.DEFINE_integer(
  "seed", None, "Of the draws. Default: the run's to make, the suite's + 1 to replay."
)
_MAX_UNSCORED = flags.DEFINE_float("max_unscored", 0.05, "Share of the answers.", 0, 1)
_MAX_CALLS = flags.DEFINE_integer("max_calls", 0, "Most requests; 0: no limit.", 0)
_MAX_USD = flags.DEFINE_float("max_usd", 0.0, "Most dollars; 0: no limit.", 0)
_PRICE = flags.DEFINE_multi_string(
  "price", [], "role=in,out: dollars for a million tokens, of answerer or evaluator."
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the cost and ask nothing.")


def _cost(config, folder: pathlib.Path, questions, asks: int) -> None:
  """Prints the most that answers and verdicts cost."""
  from fmd_jax import evaluate

  keys = [
    (row.image_id, row.question, row.discovered) for row in questions.itertuples()
  ]
  print(f"{len(questions):,} questions, {asks} fresh answers each; at most:")
  for role in ("answerer", "evaluator"):
    cost = evaluate.estimate(folder, keys * asks, config.budget.prices[role])
    print(f"  {role} ({config.roles[role]}): {cost}")


def _make() -> int:
  from fmd_jax import confirm, inference, prompts, replay

  if not _WORKDIR.value:
    raise ValueError("make needs the --workdir of the run")
  workdir, folder = epath.Path(_WORKDIR.value), pathlib.Path(_SUITE.value)
  if folder.exists():
    raise replay.SuiteError(f"{folder} is there: a suite is never changed")
  config = _saved.config_of(workdir)
  config.roles.evaluator = _EVALUATOR.value or config.roles.evaluator
  _saved.set_prices(config, _PRICE.value)
  seed = config.seed if _SEED.value is None else _SEED.value
  chosen = replay.choose(
    workdir,
    failures=_FAILURES.value,
    guards=_GUARDS.value,
    tier=_TIER.value,
    share=_SHARE.value,
    seed=seed,
  )
  _cost(config, workdir, chosen.questions, _ASKS.value)
  if _DRY_RUN.value:
    return 0
  _saved.limit(config, workdir, _MAX_CALLS.value, _MAX_USD.value)
  _saved.fresh_replies(config, "suite")
  manifest = json.loads((workdir / "manifest.json").read_text())
  asking = replay.Asking(
    asks=_ASKS.value,
    temperature=_TEMPERATURE.value,
    answer_tokens=config.answerer.max_tokens,
    judge_tokens=config.judge.max_tokens,
    judge_retries=config.judge.retries,
    seed=seed,
  )
  settings = confirm.Settings(
    samples=0, temperature=1.0, guesses=0, answer_tokens=config.answerer.max_tokens,
    max_tokens=config.judge.max_tokens, retries=config.judge.retries, seed=seed,
  )  # fmt: skip
  from fmd_jax import discover  # it brings jax

  with discover.serve_roles(config, workdir, ("answerer", "evaluator")) as models:
    answerer, judge = models["answerer"], models["evaluator"]
    _saved.same_answerer(workdir, answerer)
    asked = [
      confirm.Failure(chosen.images[row.image_id], row.question, row.discovered, truth)
      for row, truth in zip(chosen.questions.itertuples(), chosen.truths, strict=True)
    ]
    truths = confirm.true_answers(judge, settings, asked)
    questions = chosen.questions.assign(
      reference=[truth.text if truth.status == "ok" else None for truth in truths]
    )
    asks = replay.ask(answerer, judge, questions, chosen.images, asking)
    statement = {
      "version": _VERSION.value,
      "created": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
      "run_id": manifest["run_id"],
      "answerer": inference.identity(answerer),
      "judge": inference.identity(judge),
      "evaluator": config.roles.evaluator,
      "prompts": {role: prompts.version(role) for role in ("answerer", "evaluator")},
      **asking._asdict(),
    }
  suite = replay.Suite(statement, questions, asks, chosen.images)
  made = replay.write_suite(folder, suite)
  kinds = questions["kind"].value_counts()
  print(
    f"{folder}: {kinds.get('failure', 0)} failures and {kinds.get('guard', 0)} guards, "
    f"{asking.asks} fresh answers each, hash {made['hash'][:12]}"
  )
  return 0


def _replay() -> int:
  from configs import base
  from fmd_jax import inference, prompts, replay, report

  if not _ANSWERER.value:
    raise ValueError("a replay needs --roles.answerer=SPEC: whom to ask")
  folder = pathlib.Path(_SUITE.value)
  suite = replay.read_suite(folder)
  known = suite.statement
  for role, version in known["prompts"].items():
    if prompts.version(role) != version:
      raise replay.SuiteError(
        f"{folder} was asked with the prompt {version}, this version of fmd_jax has "
        f"{prompts.version(role)}: answers would differ for that; make the suite again"
      )
  config = base.get_config()
  config.roles.answerer = _ANSWERER.value
  config.roles.evaluator = _EVALUATOR.value or known["evaluator"]
  _saved.set_prices(config, _PRICE.value)
  seed = known["seed"] + 1 if _SEED.value is None else _SEED.value
  if seed == known["seed"]:
    raise ValueError(
      f"--seed={seed} is the suite's own: the same model would draw the same answers"
    )
  names = replay.Asking._fields
  asking = replay.Asking(**{name: known[name] for name in names})._replace(seed=seed)
  _cost(config, folder, suite.questions, asking.asks)
  if _DRY_RUN.value:
    return 0
  out = pathlib.Path(_WORKDIR.value or f"{str(folder).rstrip('/')}-replay")
  if out.resolve().is_relative_to(folder.resolve()):
    raise ValueError(f"--workdir={out} lies in the suite, which nothing may change")
  out.mkdir(parents=True, exist_ok=True)
  _saved.limit(config, out, _MAX_CALLS.value, _MAX_USD.value)
  from fmd_jax import discover  # it brings jax

  with discover.serve_roles(config, out, ("answerer", "evaluator")) as models:
    answerer, judge = (inference.identity(models[r]) for r in ("answerer", "evaluator"))
    if judge != known["judge"]:
      raise replay.SuiteError(
        f"{folder} was judged by {known['judge']}, not by {judge}: two judges can't be "
        "compared; --roles.evaluator says where the former is"
      )
    asks = replay.ask(
      models["answerer"], models["evaluator"], suite.questions, suite.images, asking
    )
  found = replay.compare(suite, asks)
  asks.to_parquet(out / "answers.parquet", index=False)
  worse = found.regressions()
  sentence = _sentence(found, worse)
  facts = {
    "Suite": f"{folder.name}, version {known['version']}, hash {known['hash'][:12]}",
    "Before": known["answerer"],
    "After": answerer,
    "Judge": judge,
    "Fresh answers": f"{asking.asks} each, temperature {asking.temperature:g}",
    "Unscored": f"{found.unscored:.1%} of the new answers",
  }
  with (out / "replay.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(found.table[0]))
    writer.writeheader()
    writer.writerows(found.table)
  result = {"suite": known["hash"], "answerer": answerer, "judge": judge, "seed": seed}
  result |= {"regressions": worse, "unscored": found.unscored, "table": found.table}
  (out / "replay.json").write_text(json.dumps(result, indent=2) + "\n")
  page = report.build_replay(
    out / "replay.html",
    table=found.table,
    questions=found.questions,
    folder=folder,
    facts=facts,
    sentence=sentence,
  )
  print(_text(found.table))
  print(f"\n{sentence}\nPage: {page}")
  if found.unscored > _MAX_UNSCORED.value:
    print(f"error: {found.unscored:.1%} of the answers are unscored", file=sys.stderr)
    return 3
  return 1 if worse else 0


def _sentence(found, worse: list[str]) -> str:
  fixed = [row for row in found.groups() if row["verdict"] == "fixed"]
  groups = f"{len(fixed)} group{'' if len(fixed) == 1 else 's'} fixed"
  return f"{groups}, newly failing: {', '.join(worse) or 'none'}"


def _text(table: list[dict]) -> str:
  """The table as aligned text."""
  lines = [("group", "verdict", "n", "before", "after", "difference", "p", "q")]
  for row in table:
    ends = "" if row["low"] is None else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    q = "-" if row["q"] is None else f"{row['q']:.4f}"
    lines.append(
      (
        row["name"],
        row["verdict"],
        str(row["n"]),
        f"{row['before']:.2f}",
        f"{row['after']:.2f}",
        f"{row['difference']:+.2f}{ends}",
        f"{row['p']:.4f}",
        q,
      )
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
    for line in lines
  )


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.INFO)
  commands = {(): _replay, ("make",): _make}
  try:
    if tuple(argv[1:]) not in commands:
      raise ValueError(f"unknown command {' '.join(argv[1:])!r}: make, or none")
    code = commands[tuple(argv[1:])]()
  except (ValueError, OSError, RuntimeError) as error:
    print(f"error: {error}", file=sys.stderr)
    code = 2
  except Exception:  # 1 would say that the model is worse
    traceback.print_exc()
    code = 2
  sys.exit(code)


def _parse(argv: list[str]) -> list[str]:
  """Flags as absl reads them, but a wrong one is exit code 2."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
