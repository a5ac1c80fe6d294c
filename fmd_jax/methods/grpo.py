"""GRPO, the paper's RL: ask, answer, judge, score, update.

image -> questions -> answers -> verdicts -> rewards -> advantages -> update
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from fmd_jax import rl, rollout, sharding
from fmd_jax.methods import training
from fmd_jax.methods.asking import Asking
from fmd_jax.methods.keeper import Keeper
from fmd_jax.methods.run import Run, ask_heldout
from fmd_jax.methods.watching import Watching
from fmd_jax.progress import Progress
from fmd_jax.questioner.parsing import token_slots
from fmd_jax.questioner.sampler import Samples
from fmd_jax.records.writer import drop_steps
from fmd_jax.update import TrainBatch, policy_params, trains_vision, trim

NAME = "grpo"


def run(run: Run, name: str = NAME) -> None:
  """Trains the questioner for `config.steps` steps, then asks about unseen images.

  Args:
    run: the run; its agent is where training starts, and the reference policy.
    name: of the records, for a method that is GRPO from another start.
  """
  config, agent = run.config, run.agent
  compute = jnp.dtype(config.precision.compute)
  credit = CREDIT[config.advantage.credit]

  # ---- state: from the folder, or from the last checkpoint -----------------------
  optimizer = training.make_optimizer(config)
  with sharding.use(agent.mesh):
    state = training.make_state(config, agent.model, optimizer)
  agent.release()
  frozen_vision = not trains_vision(state)
  update = training.make_update(
    config, agent.graphdef, optimizer, agent.allowed_tokens, agent.config
  )
  rescore = training.make_rescore(config, agent.graphdef, agent.allowed_tokens)
  with run.stop.deferred(), Keeper(run, name) as keeper:
    start, state, banks, flying = keeper.restore(state)
    drop_steps(run.workdir, name, "train", start)
    measured = run.measurements(name, start)
    watching = Watching(run, name, start)
    asking = Asking(run, start, flying, policy_params(state, compute))
    steps = Progress(range(start, config.steps), name, config.steps, initial=start)

    # ---- the loop ----------------------------------------------------------------
    for step in steps:
      clock = [time.perf_counter()]
      with keeper.before(step, state, banks, asking):
        run.stop.check()
        watching.check()
      asked = asking.at(step, policy_params(state, compute))
      clock.append(time.perf_counter())

      with keeper.before(step, state, banks, asking):
        result = asking.score(asked, banks)
      due = asking.batch(asked)
      advantages, recorded = credit(run, due.own_samples(), result)
      clock.append(time.perf_counter())

      inputs, samples = due.inputs, due.samples
      features = samples.image_features if frozen_vision else None
      batch = TrainBatch(
        prompt=inputs.prompt,
        completions=samples.tokens,
        lengths=samples.lengths,
        old_logprobs=samples.logprobs,
        advantages=agent.join(due.spread(advantages)),
        response_mask=agent.join(jnp.asarray(due.spread(result.mask))),
        image_features=features,
        pixel_values=None if features is not None else inputs.pixel_values,
        plan=None if features is not None else inputs.plan,
      )
      with sharding.use(agent.mesh):
        batch = trim(batch)
        if config.rollout.staleness or due.carried:
          batch = rescore(policy_params(state, compute), batch)
        state, metrics = update(state, batch)
      metrics = {name: float(v) for name, v in jax.device_get(metrics).items()}
      clock.append(time.perf_counter())

      # ---- what remains of the step ------------------------------------------------
      run.write(
        due.images,
        result,
        method=name,
        split="train",
        step=step,
        questioner_step=asked.policy_step,
        asked_at=due.asked_at,
        advantages=jax.device_get(recorded),
      )
      spent = agent.spent(asked.samples)
      numbers = {**rollout.measurements(result), **metrics, **spent}
      numbers |= watching.look(step, result)
      numbers["rollout/tokens"] = float(asked.samples.lengths.mean())
      numbers["rollout/staleness"] = step - asked.policy_step
      numbers["rollout/late"] = asking.late()
      numbers["time/sample"] = asked.seconds
      numbers["time/wait"] = clock[2] - clock[1]
      numbers["time/update"] = clock[3] - clock[2]
      numbers["time/step"] = clock[3] - clock[0]
      measured.write(step, numbers)
      steps.set_postfix(
        reward=f"{numbers.get('reward/mean', float('nan')):+.2f}",
        fdr=f"{numbers['rollout/fdr']:.2f}",
        qvr=f"{numbers['rollout/qvr']:.2f}",
        refresh=False,
      )
      keeper.after(step, state, banks, asking)

  # ---- the final policy ------------------------------------------------------------
  ask_heldout(run, name, policy_params(state, compute), questioner_step=config.steps)
  run.export(state, "questioner_hf" if name == NAME else f"questioner_hf_{name}")


def _credit_response(
  run: Run, samples: Samples, result: rollout.Rollout
) -> tuple[jax.Array, jax.Array]:
  """Every token gets its response's advantage, eq. 1: [B, G] to train and record."""
  advantages = rl.group_advantages(
    jnp.asarray(result.rewards),
    jnp.asarray(result.mask),
    run.config.advantage.std_floor,
    run.config.advantage.scale,
  )
  return advantages, advantages


def _credit_question(
  run: Run, samples: Samples, result: rollout.Rollout
) -> tuple[jax.Array, jax.Array]:
  """Ours: each token its question's; [B, G, T] to train and [B, G, K] to record."""
  k = run.config.questions_per_image
  tokens, lengths = run.agent.tokens(samples)
  spelled = token_slots(tokens, lengths, run.agent.processor.decode, k)
  # K more "tokens", one of each slot, show the advantages of the slots themselves.
  each = np.broadcast_to(np.arange(k), (*result.mask.shape, k))
  advantages = rl.question_advantages(
    jnp.asarray(result.slot_rewards),
    jnp.asarray(result.slot_mask),
    jnp.concatenate([each, spelled], -1),
    run.config.advantage.std_floor,
    run.config.advantage.scale,
  )
  return advantages[..., k:], advantages[..., :k]


CREDIT = {"response": _credit_response, "question": _credit_question}
