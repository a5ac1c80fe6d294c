"""What the page is made of: numbers and charts, ready to print."""

from typing import NamedTuple

from markupsafe import Markup


class Estimate(NamedTuple):
  """A number ready to print, with the small print beside it."""

  text: str
  between: str = ""


class Chart(NamedTuple):
  """A chart with its heading."""

  title: str
  svg: Markup
  note: str = ""


def percent(value: float | None) -> str:
  return "–" if value is None else f"{value * 100:.1f}%"
