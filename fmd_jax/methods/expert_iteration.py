"""Expert Iteration: ask, keep what fails, learn it, ask again.

round: images -> questions -> answers -> verdicts -> failures -> fine-tuning

Rejection sampling by RL's own verifier: kept are valid questions that the answerer
fails, and nothing else is rewarded. The rounds share `config.steps` steps of asking, so
that as many questions are asked as by the other methods.
"""

import jax.numpy as jnp
from absl import logging

from fmd_jax import hosts, records, sharding
from fmd_jax.checkpoint import Checkpoints
from fmd_jax.methods import training, tuning
from fmd_jax.methods.keeper import moving
from fmd_jax.methods.run import Run, ask_heldout, ask_training
from fmd_jax.types import ImageExample
from fmd_jax.update import policy_params

NAME = "expert_iteration"


class Kept:
  """The distinct failures of some steps: a corpus as `data.open_corpus` gives one."""

  def __init__(self, run: Run, steps: range):
    """Reads the records of all hosts, once all have written theirs."""
    hosts.together(lambda: None)
    rows = records.read(run.workdir, NAME)
    rows = rows[rows["step"].isin(steps) & (rows["status"] == "ok")]
    rows = rows[rows["valid"].astype(bool) & ~rows["correct"].astype(bool)]
    self.name = f"failures of steps {steps.start} to {steps.stop - 1}"
    self.origins, self.skipped = (), []
    groups = rows.groupby("image_id", sort=True)["question"]
    self._items = [(image, tuple(dict.fromkeys(asked))) for image, asked in groups]
    self._images = run.workdir / "images"

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, index: int) -> tuple[ImageExample, tuple[str, ...]]:
    image, questions = self._items[index]
    return ImageExample(image, (self._images / f"{image}.png").read_bytes()), questions

  @property
  def questions(self) -> int:
    return sum(len(questions) for _, questions in self._items)


def rounds_of(steps: int, rounds: int) -> list[range]:
  """The steps of each round, as equal as they can be."""
  ends = [steps * i // rounds for i in range(rounds + 1)]
  return [range(first, last) for first, last in zip(ends, ends[1:], strict=False)]


def run(run: Run) -> None:
  """All rounds, then the last policy on unseen images."""
  config, agent, options = run.config, run.agent, run.config.expert_iteration
  compute = jnp.dtype(config.precision.compute)

  # ---- state: from the folder, or from the last checkpoint -----------------------
  # How many updates there will be depends on what is found: the rate stays constant.
  optimizer = training.make_optimizer(config, options.learning_rate, 0)
  with sharding.use(agent.mesh):
    state = training.make_state(config, agent.model, optimizer)
  agent.release()
  update = tuning.make_update(config, agent, optimizer)
  begun, learned = 0, 0  # rounds, and updates of the round that is under way
  folder = run.workdir / "checkpoints" / NAME
  with Checkpoints(folder, config.checkpoint.keep) as checkpoints:
    if checkpoints.latest() is not None:
      saved = checkpoints.restore(moving(state))
      state, (begun, learned) = state._replace(**saved.state), saved.meta

    for number, steps in enumerate(rounds_of(config.steps, options.rounds)):
      if number < begun:
        continue
      # ---- ask, with what the last round has learned -------------------------------
      before = int(state.step)
      ask_training(run, NAME, policy_params(state, compute), steps, before)
      kept = Kept(run, steps)
      logging.info("round %d keeps %d questions", number + 1, kept.questions)
      if not kept.questions:
        continue

      # ---- learn the failures ------------------------------------------------------
      first = learned if number == begun else 0
      measured = run.measurements(f"{NAME}_tuning", before)

      def measure(i, numbers, to=measured, at=before - first, number=number) -> None:
        to.write(at + i, {"sft/round": number + 1, **numbers})

      def keep(i, state, number=number) -> None:
        checkpoints.save(int(state.step), moving(state), {}, (number, i))

      state = tuning.fine_tune(
        run,
        f"round {number + 1} of {options.rounds}, {kept.questions} failures",
        kept,
        state,
        update,
        range(first, tuning.updates_of(kept, options.epochs, config.images_per_step)),
        stream=1 + number,
        measure=measure,
        keep=keep,
      )

  # ---- the final policy ------------------------------------------------------------
  ask_heldout(run, NAME, policy_params(state, compute), int(state.step))
  run.export(state, f"questioner_hf_{NAME}")
