"""The monitor in a training: who looks, where alarms go, and whether they end it."""

from absl import logging

from fmd_jax import hosts, monitor, rollout
from fmd_jax.inference import InferenceError
from fmd_jax.methods.run import Run
from fmd_jax.records.measurements import read_rows
from fmd_jax.stopping import Alarmed


class Watching:
  """The looks at one training; the first process takes them, all of them know.

  Args:
    run: the run.
    name: of the method.
    start: the training's next step; measurements before it are what is known.
  """

  def __init__(self, run: Run, name: str, start: int):
    self._run, self._name = run, name
    own, judges = run.config.monitor, run.models
    self._on = own.every > 0 and judges["verifier"] != judges["evaluator"]
    self._alarm = ""
    if own.every and not self._on:
      logging.info("no monitor: the evaluator is the verifier, %s", judges["verifier"])
    if not self._on:
      return
    past = hosts.from_first(
      lambda: [
        row
        for row in read_rows(run.workdir)
        if row["method"] == name and row["step"] < start and "monitor/rows" in row
      ]
    )
    options = monitor.Options(
      rows=own.rows,
      window=own.window,
      gap=own.gap,
      prefix=own.prefix,
      zero_variance=own.zero_variance,
      checks=max(run.config.steps // own.every, 1),
      seed=run.config.seed,
      prefix_length=run.config.reward.prefix_length,
    )
    self._watch = monitor.Watch(run.evaluator, options, past)
    for row in past:
      for key, meaning in monitor.ALARMS.items():
        if row[f"monitor/alarm_{key}"]:
          self._alarm = self._alarm or f"step {row['step']} of {name}: {meaning}"

  def check(self) -> None:
    """Ends a training that had an alarm, if it is to, on all processes.

    Raises:
      Alarmed: names the step and the alarm.
    """
    if self._alarm and self._run.config.monitor.stop:
      raise Alarmed(
        f"the monitor stopped the training, {self._alarm}. With "
        "--config.monitor.stop=False it goes on"
      )

  def look(self, step: int, result: rollout.Rollout) -> dict[str, float]:
    """Looks at a step whose pictures are written, if it is time to.

    Returns:
      What to measure.
    """
    if not self._on or (step + 1) % self._run.config.monitor.every:
      return {}

    def take() -> tuple[dict[str, float], list[str]]:
      try:
        return self._watch.check(step, result.slots, result.rewards, result.mask)
      except InferenceError as error:
        # Who only looks on ends no training; an empty budget ends its next step.
        logging.warning("step %d has no look of the monitor: %s", step, error)
        return {}, []

    numbers, alarms = hosts.from_first(take)
    for alarm in alarms:
      self._alarm = self._alarm or f"step {step} of {self._name}: {alarm}"
      if not hosts.index():
        logging.warning("monitor, step %d of %s: %s", step, self._name, alarm)
    return numbers
