import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmd_jax.report.charts import Interval, Line, _ticks, interval_chart, line_chart

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBERS, NUMBERS, st.booleans())
def test_ticks_cover_the_data_with_few_round_numbers(a, b, whole):
  # Wrong: a range of 0, or one below 1, gives a step of 0: an endless loop.
  low, high = min(a, b), max(a, b)
  low, high = (round(low), round(high)) if whole else (low, high)
  ticks = _ticks(low, high, whole)
  slack = 1e-6 * max(abs(low), abs(high), 1e-3)
  assert ticks[0] <= low + slack and high - slack <= ticks[-1]
  assert 2 <= len(ticks) <= 8 and ticks == sorted(ticks)
  if whole:
    assert all(tick == round(tick) for tick in ticks)


def coordinates(svg):
  root = ElementTree.fromstring(svg)
  path = next(e for e in root.iter("path") if "line" in e.get("class").split())
  numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
  return np.reshape(numbers, (-1, 2))


def test_a_line_goes_through_its_points():
  # Wrong: y downwards as SVG has it: a rising reward falls.
  svg = line_chart("t", [Line("a", 0, [0, 5, 10], [0.0, 0.5, 1.0])])
  points = coordinates(svg)
  assert (np.diff(points[:, 0]) > 0).all() and (np.diff(points[:, 1]) < 0).all()
  np.testing.assert_allclose(points[1], points[[0, 2]].mean(0), atol=0.1)
  assert points.min() >= 0 and points[:, 0].max() <= 360 and points[:, 1].max() <= 210


def test_an_axis_of_a_given_range_does_not_fit_the_points():
  # Wrong: all of 0% at the bottom and at the middle of two charts side by side.
  low, high = (
    coordinates(line_chart("t", [Line("a", 0, [0, 5], [y, y])], y_range=(0.0, 1.0)))
    for y in (0.0, 1.0)
  )
  assert low[0, 1] == 182 and high[0, 1] == 10  # the bottom and the top of the axis


@pytest.mark.parametrize("y", [[1.0, 1.0], [0.0, 0.0], [math.nan, 2.0], [1e-9, 2e-9]])
def test_dull_data_still_makes_a_chart(y):
  svg = line_chart("t", [Line("a", 0, [3, 4], y), Line("b", 1, [], [])])
  assert "nan" not in svg and "inf" not in svg
  ElementTree.fromstring(svg)


def test_no_data_makes_no_chart():
  assert line_chart("t", [Line("a", 0, [1], [math.nan])]) == ""
  assert interval_chart("t", []) == ""


def test_text_is_escaped():
  # Wrong: an f-string into Markup.
  rows = [Interval("<b>&", 0, 0.5, 0.4, 0.6)]
  for svg in (
    interval_chart("</title><script>", rows),
    line_chart("</title><script>", [Line("a", 0, [1, 2], [1, 2])], x_label="<i>"),
  ):
    tags = {e.tag for e in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "title", "path", "text", "circle"}


def test_a_long_number_at_the_end_of_an_axis_stays_inside():
  # Centred on its tick, "30000" would reach 9 units beyond the picture.
  svg = line_chart("t", [Line("a", 0, [0, 30000], [0.0, 1.0])])
  assert 'x="360.0" y="196.0" text-anchor="end">30000<' in svg
  assert 'text-anchor="middle">10000<' in svg
