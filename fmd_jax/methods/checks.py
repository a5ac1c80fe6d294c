"""The methods by name, and what a config must be so that they can work."""

import ml_collections

from fmd_jax import hosts, rl
from fmd_jax.methods import (
  conme,
  expert_iteration,
  grpo,
  sft,
  sft_then_grpo,
  zero_shot,
)
from fmd_jax.models.layers import REMAT
from fmd_jax.records import mirror

METHODS = {
  module.NAME: module.run
  for module in (zero_shot, sft, conme, expert_iteration, grpo, sft_then_grpo)
}
TRAINED = tuple(name for name in METHODS if name not in ("zero_shot", "conme"))
_PRECISIONS = ("float32", "bfloat16")
# Keys whose values are names of something.
_NAMED = {
  "advantage.credit": grpo.CREDIT,
  "advantage.scale": rl.SCALES,
  "grpo.kl": rl.KL,
  "grpo.loss": rl.LOSSES,
  "model.remat": REMAT,
  "precision.compute": _PRECISIONS,
  "precision.frozen": _PRECISIONS,
}


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses what can't work, before anything is started.

  Raises:
    ValueError: names the key, the bad value and the cure.
  """
  mirror.check(config.watch.wandb)
  unknown = [m for m in config.methods if m not in METHODS]
  if unknown or not config.methods:
    raise ValueError(
      f"config.methods has {unknown or 'nothing'}; available: {', '.join(METHODS)}"
    )
  _check_methods(config)
  for key, known in _NAMED.items():
    if config[key] not in known:
      raise ValueError(
        f"config.{key} is {config[key]!r}; available: {', '.join(known)}"
      )
  if config.grpo.loss == "dr_grpo" and config.advantage.scale != "none":
    raise ValueError(
      "config.grpo.loss is dr_grpo, whose advantages are not divided by the std: set "
      "config.advantage.scale to 'none'"
    )
  if config.grpo.loss == "cispo" and config.grpo.clip_high < 1:
    raise ValueError(
      f"config.grpo.clip_high is {config.grpo.clip_high}; cispo bounds the ratio "
      "itself by it: set it above 1, to 5.0 for one"
    )
  if config.lora.rank and not config.lora.targets:
    raise ValueError("config.lora.rank is set and config.lora.targets is empty")
  for key in ("data.workers", "data.cache_mb"):
    if config[key] < 0:
      raise ValueError(f"config.{key} is {config[key]}; it must be at least 0")
  _check_monitor(config.monitor)
  if config.rollout.staleness not in (0, 1):
    raise ValueError(
      f"config.rollout.staleness is {config.rollout.staleness}; it can be 0 or 1"
    )
  if config.rollout.late < 0:
    raise ValueError(
      f"config.rollout.late is {config.rollout.late}; it is seconds, or 0 to wait for "
      "every verdict"
    )
  if config.images_per_step % hosts.count():
    raise ValueError(
      f"config.images_per_step is {config.images_per_step}, which does not split over "
      f"{hosts.count()} processes"
    )
  for key in ("steps", "images_per_step", "group_size", "questions_per_image"):
    if config[key] < 1:
      raise ValueError(f"config.{key} is {config[key]}; it must be at least 1")


def _check_monitor(own: ml_collections.ConfigDict) -> None:
  if own.every < 0:
    raise ValueError(f"config.monitor.every is {own.every}; it must be at least 0")
  for key in ("rows", "window"):
    if own[key] < 1:
      raise ValueError(f"config.monitor.{key} is {own[key]}; it must be at least 1")
  for key in ("gap", "prefix", "zero_variance"):
    if not 0 <= own[key] <= 1:
      raise ValueError(f"config.monitor.{key} is {own[key]}; it can be 0 to 1")


def _check_methods(config: ml_collections.ConfigDict) -> None:
  methods = set(config.methods)
  if config.sampling.temperature != 1.0 and methods & {"grpo", "sft_then_grpo"}:
    raise ValueError(
      f"config.sampling.temperature is {config.sampling.temperature}; GRPO trains the "
      "distribution that it samples from: set it to 1.0"
    )
  trained = [name for name in TRAINED if name in methods]
  if trained and not config.roles.questioner.startswith("hf://"):
    raise ValueError(
      f"config.roles.questioner is {config.roles.questioner!r}: a questioner that is "
      f"trained ({trained[0]}) must be a checkpoint folder, hf:///path/to/folder; "
      "zero_shot and conme take any model"
    )
  if methods & {"sft", "sft_then_grpo"} and not config.sft.corpus:
    raise ValueError(
      "config.sft.corpus is empty: name what the questioner is to be fine-tuned on, "
      "failures:///another/workdir for one"
    )
  rounds = config.expert_iteration.rounds
  if "expert_iteration" in methods and not 1 <= rounds <= config.steps:
    raise ValueError(
      f"config.expert_iteration.rounds is {rounds}; it can be 1 to config.steps, "
      f"which is {config.steps}: each round asks one step at least"
    )
  second, local = config.conme.questioner, config.roles.questioner.startswith("hf://")
  if "conme" in methods and second and not (local and second.startswith("hf://")):
    raise ValueError(
      f"config.conme.questioner is {second!r} and config.roles.questioner "
      f"{config.roles.questioner!r}: both must be checkpoint folders, hf:///path; with "
      "config.conme.questioner='' one model asks both turns"
    )
  if "conme" in methods and config.group_size % 2:
    raise ValueError(
      f"config.group_size is {config.group_size}; conme asks half of the responses in "
      "each of two turns: make it even"
    )
