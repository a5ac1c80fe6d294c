"""The part of a source's spec after the question mark."""

from urllib import parse


def parse_options(
  query: str, defaults: dict[str, str | int | None]
) -> dict[str, str | int | None]:
  """Reads `key=value&key=value`.

  Args:
    query: the text after `?`, "" for none.
    defaults: every option there is; one whose default is an int, or None, is a
      whole number.

  Raises:
    ValueError: an option is unknown or malformed; one line that says which.
  """
  options = dict(defaults)
  for part in query.split("&") if query else ():
    key, mark, text = part.partition("=")
    if not mark:
      raise ValueError(f"an option is key=value, not {part!r}")
    if key not in defaults:
      raise ValueError(f"unknown option {key!r}; there are {', '.join(defaults)}")
    if isinstance(defaults[key], str):
      options[key] = parse.unquote(text)
    elif text.isdecimal():
      options[key] = int(text)
    else:
      raise ValueError(f"{key} is a whole number, not {text!r}")
  return options
