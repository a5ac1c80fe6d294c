"""What the page is made of: numbers and charts, ready to print."""

import pathlib
import re
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

TEMPLATES = pathlib.Path(__file__).parent / "templates"
# Escaping leaves these: they print nothing, or turn the text after them around.
_INVISIBLE = re.compile(
  r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LONG = 600  # characters; a model that runs on does not push the rest off the page


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


def rate(found: dict[str, Any] | None) -> Estimate:
  """A rate with its interval: `value`, `low`, `high`, each may be None."""
  if not found or found["value"] is None:
    return Estimate("–")
  if found["low"] is None or found["high"] is None:
    return Estimate(percent(found["value"]))
  between = f"{found['low'] * 100:.1f}–{found['high'] * 100:.1f}"
  return Estimate(percent(found["value"]), between)


def said(text: Any, long: int = _LONG) -> str:
  """What a model or a file said, without what a reader can't see, cut when long."""
  text = _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", str(text))
  return text if len(text) <= long else f"{text[:long]} … ({len(text):,} characters)"


def text_of(value: Any) -> str:
  """Text of a cell that may be null; Parquet gives None or NaN."""
  return value if isinstance(value, str) else ""


def template(name: str) -> jinja2.Template:
  """A page to fill in; whatever a model or a file said is escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {"said": said, "percent": percent}
  return environment.get_template(name)


def style() -> Markup:
  return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
