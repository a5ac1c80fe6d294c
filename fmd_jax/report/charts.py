"""Small charts as inline SVG: no script, no font, colours from the page's CSS."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_W, _H = 360, 210  # of the view box; the page scales it
_DIGIT = 7  # width of a digit, about
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 28


class Line(NamedTuple):
  """One curve; `kind` is the number of its colour in the page's style."""

  label: str
  kind: int
  x: Sequence[float]
  y: Sequence[float]


class Interval(NamedTuple):
  """One estimate with its interval, in [0, 1]."""

  label: str
  kind: int
  value: float
  low: float
  high: float


def line_chart(
  title: str,
  lines: Sequence[Line],
  *,
  percent: bool = False,
  x_label: str = "step",
  y_range: tuple[float, float] | None = None,
) -> Markup:
  """Curves over one axis; points that are not finite are left out.

  Args:
    title: said by screen readers and shown as a tool tip.
    lines: the curves.
    percent: label the vertical axis in percent.
    x_label: name of the horizontal axis.
    y_range: what the vertical axis covers; None fits it to the points.

  Returns:
    An `<svg>`; "" when no curve has a point.
  """
  points = []
  for line in lines:
    pairs = zip(line.x, line.y, strict=True)
    points.append([(x, y) for x, y in pairs if _finite(x) and _finite(y)])
  every = [p for some in points for p in some]
  if not every:
    return Markup("")
  x_ticks = _ticks(min(x for x, _ in every), max(x for x, _ in every), whole=True)
  heights = y_range or [y for _, y in every]
  y_ticks = _ticks(min(heights), max(heights))
  x_span = min(x_ticks[0], min(x for x, _ in every)), max(x for x, _ in every)
  to_x = _scale(*x_span, _LEFT, _W - _RIGHT)
  to_y = _scale(y_ticks[0], y_ticks[-1], _H - _BOTTOM, _TOP)
  parts = []
  for tick in y_ticks:
    y = to_y(tick)
    parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_W - _RIGHT}"/>')
    text = f"{tick * 100:.4g}%" if percent else f"{tick:.4g}"
    parts.append(_text(_LEFT - 5, y + 3.5, text, "end"))
  for tick in x_ticks:
    if tick <= x_span[1]:
      x, text = to_x(tick), f"{tick:g}"
      # In the middle of the last tick, a long number would leave the picture.
      outside = x + _DIGIT / 2 * len(text) > _W
      place = (_W, "end") if outside else (x, "middle")
      parts.append(_text(place[0], _H - 14, text, place[1]))
  parts.append(_text(_W - _RIGHT, _H - 3, x_label, "end"))
  for line, some in zip(lines, points, strict=True):
    if len(some) == 1:
      x, y = to_x(some[0][0]), to_y(some[0][1])
      parts.append(
        f'<circle class="k{line.kind} dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
      )
    elif some:
      path = "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in some)
      parts.append(f'<path class="k{line.kind} line" d="M{path}"/>')
  return _svg(title, _H, parts)


def interval_chart(title: str, rows: Sequence[Interval]) -> Markup:
  """One row for each estimate: a dot, its interval, and the numbers.

  Args:
    title: said by screen readers and shown as a tool tip.
    rows: from top to bottom; estimates that are not finite are left out.

  Returns:
    An `<svg>`; "" when there is no estimate.
  """
  rows = [r for r in rows if all(map(_finite, (r.value, r.low, r.high)))]
  if not rows:
    return Markup("")
  left, right, pitch = 120, _W - 40, 24
  ticks = _ticks(0.0, max(max(r.high for r in rows), 0.05))
  to_x = _scale(0.0, ticks[-1], left, right)
  height = len(rows) * pitch + 26
  parts = []
  for tick in ticks:
    x = to_x(tick)
    parts.append(f'<path class="grid" d="M{x:.1f} 4V{height - 20}"/>')
    parts.append(_text(x, height - 7, f"{tick * 100:.4g}%", "middle"))
  for i, row in enumerate(rows):
    y = 16 + i * pitch
    low, value, high = to_x(row.low), to_x(row.value), to_x(row.high)
    parts.append(_text(left - 8, y + 4, row.label, "end"))
    parts.append(f'<path class="k{row.kind} bar" d="M{low:.1f} {y}H{high:.1f}"/>')
    parts.append(f'<circle class="k{row.kind} dot" cx="{value:.1f}" cy="{y}" r="4.5"/>')
    parts.append(_text(_W - 2, y + 4, f"{row.value * 100:.1f}%", "end", "value"))
  return _svg(title, height, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> Markup:
  # Every part is made of numbers, or was escaped by _text.
  return Markup(
    f'<svg viewBox="0 0 {_W} {height}" role="img">'
    f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
  )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
  return (
    f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
    f"{escape(text)}</text>"
  )


def _finite(value: float | None) -> bool:
  return value is not None and math.isfinite(value)


def _scale(low: float, high: float, start: float, stop: float):
  span = (high - low) or 1.0
  return lambda value: start + (value - low) / span * (stop - start)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
  """Round numbers that cover low..high, about five of them."""
  if high <= low:
    margin = max(abs(high) * 0.1, 1.0 if whole else 0.01)
    low, high = (low, high + margin) if whole else (low - margin, high + margin)
  rough = (high - low) / 4
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
  step = max(round(step), 1) if whole else step
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]
