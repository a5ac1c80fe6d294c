"""The config of a run that is there, for the commands that ask more of its models."""

import json

import ml_collections
from etils import epath

from configs import base


def config_of(workdir: epath.Path) -> ml_collections.ConfigDict:
  """The run's config, with the defaults of keys that an older version did not have."""
  path = workdir / "config.json"
  if not path.is_file():
    raise SystemExit(f"error: {workdir} holds no run: it has no config.json")
  saved = json.loads(path.read_text())
  return ml_collections.ConfigDict(_filled(saved, base.get_config().to_dict()))


def _filled(saved: dict, known: dict) -> dict:
  return saved | {
    key: _filled(saved.get(key, {}), default)
    if isinstance(default, dict)
    else saved.get(key, default)
    for key, default in known.items()
  }


def limit(
  config: ml_collections.ConfigDict,
  workdir: epath.Path,
  max_calls: int,
  max_usd: float,
) -> None:
  """Allows so much on top of what was spent: the ledger counts from the beginning.

  0 leaves the config's own budget.
  """
  from fmd_jax import inference

  ledger = inference.Ledger(workdir / "spending.json", calls=0, usd=0.0, prices={})
  for key, most in (("calls", max_calls), ("usd", max_usd)):
    if most:
      config.budget[key] = most + type(most)(ledger.total(key))


def same_answerer(workdir: epath.Path, answerer) -> None:
  """Refuses another model than the run's: the failures are not its failures.

  Raises:
    ValueError: names both.
  """
  from fmd_jax import inference

  manifest = json.loads((workdir / "manifest.json").read_text())
  known, found = manifest["models"]["answerer"], inference.identity(answerer)
  if known != found:
    raise ValueError(f"the answerer is {found}, the run's was {known}")


def set_prices(config: ml_collections.ConfigDict, said: list[str]) -> None:
  """Puts "role=in,out" (dollars for a million tokens) into the budget's prices.

  Raises:
    ValueError: quotes what is no price.
  """
  for text in said:
    role, _, pair = text.partition("=")
    try:
      read, written = (float(number) for number in pair.split(","))
    except ValueError as error:
      raise ValueError(f"--price={text} is not role=in,out (dollars)") from error
    config.budget.prices[role] = (read, written)


def fresh_replies(config: ml_collections.ConfigDict, name: str) -> None:
  """Keeps replies apart from the run's: what is asked again must be asked again."""
  if config.cache.folder:
    config.cache.folder = f"{config.cache.folder}-{name}"
