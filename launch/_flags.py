"""How the launchers read their flags."""

from absl import app


def parse_flags(argv: list[str]) -> list[str]:
  """absl's own parser, but a bad config or key is one line, not a traceback."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    message = " ".join(str(a) for a in error.args) or repr(error)
    raise SystemExit(f"error: {message}") from None
