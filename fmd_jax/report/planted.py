"""Whether the planted blind spots were found, where a census tells the truth."""

from typing import Any, NamedTuple

from fmd_jax.report import charts
from fmd_jax.report.parts import Chart, Estimate, percent
from fmd_jax.report.reading import Method, Run

PROTOCOLS = {
  "during": "While training",
  "after": "The final policy, on pictures it never saw",
}
WAYS = (
  ("Planted cells found", "Each cell tested by itself"),
  ("Planted cells found, explained", "Without the questions of cells already found"),
)
Found = list[tuple[Method, dict[str, Any]]]  # of metrics.json, "planted"


class Part(NamedTuple):
  """What is shown of one protocol.

  Attributes:
    title: which one.
    methods: each with its numbers, by heading.
    curves: recall against questions.
    cells: planted cell, its rate in the census, and after how many questions each
      method found it.
  """

  title: str
  methods: list[tuple[Method, dict[str, Estimate]]]
  curves: list[Chart]
  cells: list[tuple[str, Estimate, list[tuple[Method, Estimate]]]]


def parts(run: Run) -> list[Part]:
  """What is known of a run's planted blind spots; nothing where there are none."""
  summaries = run.metrics.get("methods", {})
  out = []
  for protocol, title in PROTOCOLS.items():
    found = []
    for method in run.methods:
      summary = summaries.get(method.name, {}).get(protocol, {})
      planted = summary.get("planted")
      if planted and planted["planted"]:
        found.append((method, planted))
    if found:
      numbers = [(method, _numbers(planted)) for method, planted in found]
      out.append(Part(title, numbers, _curves(found), _cells(found)))
  return out


def _ways(planted: dict[str, Any]) -> tuple[dict[str, Any], ...]:
  return planted, planted["explained"]


def _both(plain: str, explained: str) -> Estimate:
  return Estimate(plain, f"explained: {explained}")


def _numbers(planted: dict[str, Any]) -> dict[str, Estimate]:
  count = len(planted["planted"])
  right, recall, area = [], [], []
  for own in _ways(planted):
    weak = sum(cell["weak"] for cell in own["discovered"])
    right.append(f"{weak} of {len(own['discovered'])}")
    recall.append(percent(own["at_6000"]["recall"]) if own["at_6000"] else "–")
    area.append("–" if own["area"] is None else f"{own['area']:.3f}")
  found = [f"{len(own['found'])} of {count}" for own in _ways(planted)]
  return {
    "Questions": Estimate(f"{planted['n']:,}"),
    "Planted cells found (recall)": _both(*found),
    "Cells pointed at that do fail (precision)": _both(*right),
    "Recall after 6,000 questions": _both(*recall),
    "Area under the recall": _both(*area),
  }


def _curves(found: Found) -> list[Chart]:
  charted = []
  for way, (title, note) in enumerate(WAYS):
    lines = []
    for method, planted in found:
      curve = _ways(planted)[way]["curve"]
      line = charts.Line(method.label, method.kind, curve["n"], curve["recall"])
      lines.append(line)
    svg = charts.line_chart(
      title, lines, percent=True, x_label="questions", y_range=(0.0, 1.0)
    )
    charted.append(Chart(title, svg, note))
  return charted


def _cells(found: Found) -> list[tuple[str, Estimate, list[tuple[Method, Estimate]]]]:
  def after(planted: dict[str, Any], cell: str) -> Estimate:
    stops = [own["found_after"][cell] for own in _ways(planted)]
    return _both(*("–" if stop is None else f"{stop:,}" for stop in stops))

  return [
    (
      known["cell"],
      Estimate(percent(known["rate"]), f"of {known['n']:,}"),
      [(method, after(planted, known["cell"])) for method, planted in found],
    )
    for known in found[0][1]["planted"]
  ]
