"""Asks each failure of a run again, and sorts them into tiers:

  python -m launch.confirm --workdir DIR --second_judge SPEC [--sample 1000]
    [--paraphraser SPEC] [--max_usd 5 --price second_judge=1.25,10] [--dry_run]

  1 missed once: the evaluator found the question valid and the answer wrong
  2 missed again: asked anew, the greedy answer is wrong and at least half of
    --samples sampled ones
  3 missed in other words: the greedy answer to a paraphrase is wrong too
  4 a second, different judge agrees
  5 controls: not answered without the image, and two judges' own answers agree

What it costs at most is printed first; each tier is asked only of what reached the one
before. A check that could not be made is unscored: the failure stays where it is, open.
Killed, or out of budget, the same command goes on. DIR/confirmed.parquet has a row for
each failure (columns: fmd_jax/records/confirmed.py). Then launch.evaluate and
launch.report take --tier.
"""

from absl import app, flags, logging
from etils import epath

from launch import _saved

_WORKDIR = flags.DEFINE_string("workdir", None, "Of an evaluated run.", required=True)
_SECOND = flags.DEFINE_string(
  "second_judge", None,
  "A model spec, another one than the evaluator. Default: the run's verifier where it "
  "is another; else tier 4 stays open.",
)  # fmt: skip
_PARAPHRASER = flags.DEFINE_string(
  "paraphraser", None, "A model spec. Default: the run's annotator."
)
_SAMPLE = flags.DEFINE_integer(
  "sample", 0, "Ask this many failures again, equally many of each method and split; "
  "0: all.", lower_bound=0,
)  # fmt: skip
_SAMPLES = flags.DEFINE_integer("samples", 4, "Sampled answers beside the greedy.", 0)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Of the sampled answers.", 0.01)
_GUESSES = flags.DEFINE_integer(
  "guesses", 3, "Answers without the image; all right: the image is not needed.", 1
)
_SEED = flags.DEFINE_integer("seed", None, "Of sample and answers. Default: the run's.")
_MAX_CALLS = flags.DEFINE_integer("max_calls", 0, "Most requests; 0: no limit.", 0)
_MAX_USD = flags.DEFINE_float("max_usd", 0.0, "Most dollars; 0: no limit.", 0)
_PRICE = flags.DEFINE_multi_string(
  "price", [], "role=in,out: dollars for a million tokens read, and written, of "
  "answerer, evaluator, second_judge or paraphraser. Default: the run's.",
)  # fmt: skip
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the cost and ask nothing.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  from fmd_jax import confirm, metrics

  workdir = epath.Path(_WORKDIR.value)
  config = _saved.config_of(workdir)
  second = _SECOND.value
  if second is None and config.roles.verifier != config.roles.evaluator:
    second = config.roles.verifier
  config.roles.second_judge = second or ""
  config.roles.paraphraser = _PARAPHRASER.value or config.roles.annotator
  seed = config.seed if _SEED.value is None else _SEED.value
  settings = confirm.Settings(
    samples=_SAMPLES.value,
    temperature=_TEMPERATURE.value,
    guesses=_GUESSES.value,
    answer_tokens=config.answerer.max_tokens,
    max_tokens=config.judge.max_tokens,
    retries=config.judge.retries,
    # Not the run's own draws.
    seed=seed + 1_000_003,
  )
  roles = (
    "answerer",
    "evaluator",
    "paraphraser",
    *(("second_judge",) if second else ()),
  )
  try:
    _saved.set_prices(config, _PRICE.value)
    found = confirm.choose(workdir, _SAMPLE.value, seed)
    cost = confirm.costs(workdir, found.rows, settings, config.budget.prices)
    print(f"{len(found.rows):,} of {found.total:,} distinct failures; at most:")
    for role in roles:
      print(f"  {role} ({config.roles[role]}): {cost[role]}")
    if not second:
      print(
        "  no second judge: the evaluator is the verifier too, so tiers 4 and 5 stay "
        "open; --second_judge names another model"
      )
    if _DRY_RUN.value:
      return
    _saved.limit(config, workdir, _MAX_CALLS.value, _MAX_USD.value)
    _saved.fresh_replies(config, "confirm")
    from fmd_jax import discover  # it brings jax

    with discover.serve_roles(config, workdir, roles) as models:
      _saved.same_answerer(workdir, models["answerer"])
      confirmed = confirm.confirm(
        workdir,
        found,
        confirm.Models(
          models["answerer"],
          models["evaluator"],
          models["second_judge"] if second else None,
          models["paraphraser"],
        ),
        settings,
        sample=_SAMPLE.value,
        seed=seed,
        tell=print,
      )
  except (ValueError, OSError, RuntimeError) as error:
    raise SystemExit(f"error: {error}") from error
  print()
  for tier, estimate in zip(metrics.TIERS, metrics.survivors(confirmed.table)):
    ends = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate.n else ""
    share = "-" if estimate.value is None else f"{estimate.value:.3f}{ends}"
    print(
      f"tier {tier}  {metrics.TIERS[tier]:<30}"
      f"{estimate.count:>7,} of {estimate.n:,}  {share}"
    )
  open_ = int(confirmed.table["open"].sum())
  if open_:
    print(f"{open_:,} are open: a check of theirs is unscored; start it again")
  print(f"Failures with their tiers: {workdir / 'confirmed.parquet'}")


if __name__ == "__main__":
  app.run(main)
