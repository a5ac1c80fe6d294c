"""Makes a set of the testbed's checkpoints from nothing, within two hours on two cores:

  python -m launch.build_testbed --workdir DIR [--member NAME] [--install]

  python -m launch.build_testbed --workdir DIR --failures

Stages leave their checkpoints in DIR, so a build that was stopped goes on. `--install`
copies the finished ones, with their card, into fmd_jax/testbed/assets. `--failures`
makes failures://testbed/NAME, for fine-tuning, of a run in DIR; that of answerer_other:

  python -m launch.discover --config configs/answerers.py:other --workdir DIR \\
    --config.methods="('zero_shot',)" --config.steps=80 \\
    --config.data.train="testbed://?split=train&size=960&seed=1000"
"""

import pathlib

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string("workdir", None, "Where stages are kept.", required=True)
_MEMBER = flags.DEFINE_enum(
  "member", "base", ["base", "small", "other", "two_turns"],
  "base: answerer and questioner, Qwen2.5-VL; small: both, smaller; other: an answerer "
  "of base's size, Qwen3-VL, with other blind spots; two_turns: a copy of the shipped "
  "questioner that ConMe asks its second turn with.",
)  # fmt: skip
_INSTALL = flags.DEFINE_bool("install", False, "Replace the package's checkpoints.")
_FAILURES = flags.DEFINE_bool("failures", False, "Ship the failures of a run instead.")
_SMOKE = flags.DEFINE_bool("smoke", False, "A few steps of each stage: a test.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
  logging.set_verbosity(logging.INFO)
  from fmd_jax.testbed import card, failures, recipe, two_turns

  if _FAILURES.value:
    print(failures.ship(pathlib.Path(_WORKDIR.value)))
    return
  budget = recipe.SMOKE if _SMOKE.value else recipe.Budget()
  shop = recipe.Workshop(pathlib.Path(_WORKDIR.value), budget, _MEMBER.value)
  (two_turns if shop.member.starts_from else recipe).build(shop)
  report = card.measure(shop)
  print(card.text({shop.name: report}))
  if _INSTALL.value:
    card.install(shop, report)


if __name__ == "__main__":
  app.run(main)
