"""Judges the records of a run again and makes its numbers and report anew:

  python -m launch.evaluate --workdir DIR [--evaluator SPEC] [--sample 2000]
    [--max_usd 5 --usd_in 0.5 --usd_out 3] [--max_calls N] [--dry_run]

The evaluator and the embedder are those of the run's config.json unless told. What it
costs is printed first. Killed, or out of budget, the same command goes on.
"""

from absl import app, flags, logging
from etils import epath

from launch import _saved

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
_EVALUATOR = flags.DEFINE_string("evaluator", None, "Another judge: a model spec.")
_SAMPLE = flags.DEFINE_integer(
  "sample",
  None,
  "Judge this many questions, drawn at random, equally many of each method and split; "
  "0: every one. Default: the config's evaluation.sample.",
  lower_bound=0,
)
_SEED = flags.DEFINE_integer("seed", None, "Of the sample. Default: the config's.")
_MAX_CALLS = flags.DEFINE_integer(
  "max_calls", 0, "Most requests of this evaluation; 0: as the config says.", 0
)
_MAX_USD = flags.DEFINE_float("max_usd", 0.0, "Most dollars of it; 0: likewise.", 0)
_USD_IN = flags.DEFINE_float(
  "usd_in", None, "Dollars for a million tokens read. Default: the config's.", 0
)
_USD_OUT = flags.DEFINE_float("usd_out", None, "The same for tokens written.", 0)
_TIER = flags.DEFINE_integer(
  "tier", 1,
  "Count only failures that launch.confirm found to be of this tier or higher; the "
  "numbers go to metrics-tier-N.json and report/tier-N.html, beside the others.",
  lower_bound=1, upper_bound=5,
)  # fmt: skip
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the cost and ask nothing.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  from fmd_jax import evaluate

  workdir = epath.Path(_WORKDIR.value)
  config = _saved.config_of(workdir)
  if _EVALUATOR.value:
    config.roles.evaluator = _EVALUATOR.value
  sample = config.evaluation.sample if _SAMPLE.value is None else _SAMPLE.value
  seed = config.seed if _SEED.value is None else _SEED.value
  given = (_USD_IN.value, _USD_OUT.value)
  known = config.budget.prices.evaluator
  price = tuple(a if b is None else b for a, b in zip(known, given))
  config.budget.prices.evaluator = price

  def allow(cost: evaluate.Cost) -> None:
    cost.check(_MAX_CALLS.value, _MAX_USD.value)

  try:
    plan = evaluate.make_plan(workdir, sample, seed)
    if _DRY_RUN.value:
      # Of all, since whose verdicts are there is known once the judge is served.
      cost = evaluate.estimate(workdir, plan.keys(), price)
      print(f"{config.roles.evaluator}, {plan.rows:,} questions: at most {cost}")
      allow(cost)
      return
    _saved.limit(config, workdir, _MAX_CALLS.value, _MAX_USD.value)
    from fmd_jax import discover, report  # they bring jax

    with discover.serve_roles(config, workdir, ("evaluator", "embedder")) as models:
      evaluate.evaluate(
        workdir,
        models["evaluator"],
        plan,
        max_tokens=config.judge.max_tokens,
        retries=config.judge.retries,
        price=price,
        allow=allow,
        tell=print,
      )
      metrics = evaluate.measure(workdir, models["embedder"], config.seed, _TIER.value)
    page = report.build(workdir, tier=_TIER.value)
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error
  print(f"\n{discover.table(metrics)}\n\nReport: {page}")


if __name__ == "__main__":
  app.run(main)
