"""How the launchers read their flags."""

import ml_collections
from absl import app, flags
from ml_collections import config_flags

OVERRIDE = "--config."


def parse_flags(argv: list[str]) -> list[str]:
  """absl's own parser, but a bad config or key is one line, not a traceback."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    message = " ".join(str(a) for a in error.args) or repr(error)
    raise SystemExit(f"error: {message}") from None


def parse_own_flags(argv: list[str]) -> list[str]:
  """The flags of this command; `--config.key=value` is left for the run it starts."""
  own = [argument for argument in argv if not argument.startswith(OVERRIDE)]
  return app.parse_flags_with_usage(own) + overrides(argv)


def overrides(argv: list[str]) -> list[str]:
  """The `--config.key=value` among the arguments."""
  return [argument for argument in argv if argument.startswith(OVERRIDE)]


def resolve(path: str, arguments: list[str]) -> ml_collections.ConfigDict:
  """The config that launch.discover would see, so that a mistake shows at once.

  Args:
    path: configs/NAME.py[:arg].
    arguments: `--config.key=value`.
  """
  argv = ["discover", f"--config={path}", *arguments]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
  try:
    values(argv)
    return values.config
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
    message = " ".join(str(a) for a in e.args) or repr(e)
    raise SystemExit(f"error: {path}: {message}") from None
