"""The tables as figures. Each takes a table of this unit and gives SVG text."""

import io
import math

import numpy as np
import pandas as pd

INSTALL = "pip install matplotlib"
# Okabe and Ito's: told apart without colour vision.
_COLORS = (
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
)  # fmt: skip


def _figure(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 4.0):
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ImportError(f"figures need matplotlib: {INSTALL}") from error
  figure = Figure(figsize=(width, height), layout="constrained")
  return figure, figure.subplots(rows, columns, squeeze=False)


def _svg(figure) -> str:
  import matplotlib

  buffer = io.StringIO()
  # The same table gives the same bytes; texts stay texts, so that they can be found.
  with matplotlib.rc_context({"svg.hashsalt": "fmd", "svg.fonttype": "none"}):
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  return buffer.getvalue()


def _color(table: pd.DataFrame) -> dict[str, str]:
  names = list(dict.fromkeys(table["arm"]))
  return {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}


def _text(value: str) -> str:
  """A label that a model wrote, safe to draw."""
  # A dollar sign would start a formula; XML has no place for control characters.
  shown = "".join(c if c.isprintable() else " " for c in str(value))
  return shown.replace("$", r"\$")


def _errors(part: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
  """[2, N] distances to the interval's ends; 0 where there is none."""
  numbers = part[[value, low, high]].astype(float)
  below = (numbers[value] - numbers[low]).fillna(0.0).clip(lower=0)
  above = (numbers[high] - numbers[value]).fillna(0.0).clip(lower=0)
  return np.stack([below, above])


def radar(table: pd.DataFrame) -> str:
  """Figure 5 of `overview.per_meta_skill`, of one protocol: three radars."""
  from matplotlib.figure import Figure

  metas = sorted(table["meta_skill"].unique())
  angles = [2 * math.pi * i / max(len(metas), 1) for i in range(len(metas))]
  figure = Figure(figsize=(11, 4.5), layout="constrained")
  colors = _color(table)
  titles = {
    "fdr": "failure rate",
    "sd": "semantic diversity",
    "ld": "lexical diversity",
  }
  for k, (column, title) in enumerate(titles.items()):
    axes = figure.add_subplot(1, 3, k + 1, projection="polar")
    for arm, part in table.groupby("arm"):
      values = part.set_index("meta_skill")[column].astype(float).reindex(metas)
      closed = [*values.fillna(0.0), float(values.fillna(0.0).iloc[0])]
      axes.plot([*angles, angles[0]], closed, color=colors[arm], label=_text(arm))
      axes.fill([*angles, angles[0]], closed, color=colors[arm], alpha=0.1)
    axes.set_xticks(angles, [_text(name) for name in metas], fontsize=7)
    axes.set_title(title)
  axes.legend(loc="upper right", bbox_to_anchor=(1.3, 1.15), fontsize=7)
  return _svg(figure)


def bars(table: pd.DataFrame, value: str, title: str) -> str:
  """Bars with intervals, one a row: figures 6 and 7a, table 2."""
  figure, axes = _figure(height=1.2 + 0.4 * len(table))
  axes = axes[0, 0]
  at = np.arange(len(table))[::-1]
  colors = _color(table)
  ends = f"{value}_low", f"{value}_high"
  errors = _errors(table, value, *ends) if ends[0] in table else None
  axes.barh(
    at,
    table[value].astype(float),
    xerr=errors,
    color=[colors[arm] for arm in table["arm"]],
    error_kw={"ecolor": "#555555", "capsize": 3},
  )
  names = [f"{a}, {p}" for a, p in zip(table["arm"], table["protocol"])]
  axes.set_yticks(at, [_text(name) for name in names])
  axes.set_xlabel(title)
  return _svg(figure)


def complexity(table: pd.DataFrame) -> str:
  """Figure 7b of `skills.complexity`, of one protocol."""
  table = table[table["skills"] != "mean"]
  figure, axes = _figure()
  axes = axes[0, 0]
  colors, kinds = _color(table), list(dict.fromkeys(table["skills"]))
  width = 0.8 / max(len(colors), 1)
  for i, (arm, part) in enumerate(table.groupby("arm", sort=False)):
    at = [kinds.index(kind) + i * width for kind in part["skills"]]
    errors = _errors(part, "share", "share_low", "share_high")
    axes.bar(
      at, part["share"].astype(float), width, yerr=errors, color=colors[arm],
      label=_text(arm), error_kw={"ecolor": "#555555", "capsize": 2},
    )  # fmt: skip
  middle = 0.4 - width / 2
  axes.set_xticks([k + middle for k in range(len(kinds))], kinds)
  axes.set_xlabel("skills that a question needs")
  axes.set_ylabel("share of valid questions")
  axes.legend()
  return _svg(figure)


def failure_curve(table: pd.DataFrame) -> str:
  """Figure 8 of `dynamics.failure_curve`, of one protocol."""
  figure, axes = _figure(1, 2, width=10)
  colors = _color(table)
  for arm, part in table.groupby("arm", sort=False):
    own = part.astype({"fdr": float, "low": float, "high": float})
    axes[0, 0].plot(own["n"], own["fdr"], color=colors[arm], label=_text(arm))
    axes[0, 0].fill_between(
      own["n"], own["low"], own["high"], color=colors[arm], alpha=0.15, linewidth=0
    )
    axes[0, 1].plot(own["n"], own["distinct"], color=colors[arm])
  axes[0, 0].set_ylabel("failure rate of the valid questions so far")
  axes[0, 1].set_ylabel("distinct failures found")
  for one in axes[0]:
    one.set_xlabel("questions asked")
    one.set_ylim(bottom=0)
  axes[0, 0].legend()
  return _svg(figure)


def density(table: pd.DataFrame) -> str:
  """Figure 9 of `dynamics.density`: a band for each skill, darker where denser."""
  wide = table.pivot(index="skill", columns="window", values="share").fillna(0.0)
  # By the middle of its mass: what comes early stands on top.
  mass = wide.sum(axis=1).replace(0, 1)
  centre = (wide * np.arange(wide.shape[1])).sum(axis=1) / mass
  wide = wide.loc[centre.sort_values().index]
  relative = wide.div(wide.max(axis=1).replace(0, 1), axis=0)
  figure, axes = _figure(width=8, height=1.4 + 0.3 * len(wide))
  axes = axes[0, 0]
  steps = table.drop_duplicates("window").set_index("window")["step"]
  axes.imshow(relative.to_numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
  most = [f"{_text(name)} (≤ {wide.loc[name].max():.0%})" for name in wide.index]
  axes.set_yticks(range(len(wide)), most, fontsize=8)
  shown = range(0, wide.shape[1], max(1, wide.shape[1] // 8))
  axes.set_xticks(list(shown), [int(steps.get(w, 0)) for w in shown])
  axes.set_xlabel("training step (a row's darkest colour is its own largest share)")
  return _svg(figure)


def evolution(table: pd.DataFrame) -> str:
  """Figure 10 of `evolution.one_image`: the three measures against the step."""
  figure, axes = _figure(1, 3, width=11, height=3.5)
  for one, name in zip(axes[0], ("length", "depth", "granularity")):
    for failed, marker, color in ((False, "o", _COLORS[0]), (True, "x", _COLORS[1])):
      part = table[table["failure"] == failed]
      label = "answered wrongly" if failed else "answered rightly"
      one.scatter(
        part["step"], part[name], marker=marker, color=color, s=14, alpha=0.6,
        label=label,
      )  # fmt: skip
    means = table.groupby("step")[name].mean().rolling(9, 1, center=True).mean()
    one.plot(means.index, means, color="#333333")
    one.set_title(name)
    one.set_xlabel("step")
  axes[0, 0].legend(fontsize=7)
  return _svg(figure)


def rarefaction(table: pd.DataFrame) -> str:
  """The curves of `coverage.curves`, of one protocol: a panel for each kind."""
  kinds = list(dict.fromkeys(table["kind"]))
  figure, axes = _figure(1, max(len(kinds), 1), width=12, height=3.5)
  colors = _color(table)
  for one, kind in zip(axes[0], kinds):
    for arm, part in table[table["kind"] == kind].groupby("arm", sort=False):
      one.plot(part["n"], part["expected"], color=colors[arm], label=_text(arm))
    one.set_title(kind)
    one.set_xlabel("distinct questions")
    one.set_ylim(bottom=0)
  axes[0, 0].legend(fontsize=7)
  return _svg(figure)


def modes(table: pd.DataFrame, most: int = 20) -> str:
  """The ranking of `modes.rank`, worst first."""
  table = table.head(most)
  figure, axes = _figure(height=1.2 + 0.3 * len(table))
  axes = axes[0, 0]
  at = np.arange(len(table))[::-1]
  planted = table["planted"] if "planted" in table else [False] * len(table)
  axes.errorbar(
    table["fdr"].astype(float), at, xerr=_errors(table, "fdr", "low", "high"),
    fmt="none", ecolor="#777777", capsize=3,
  )  # fmt: skip
  axes.scatter(
    table["fdr"].astype(float), at, color=[_COLORS[bool(p)] for p in planted], zorder=3
  )
  names = [f"{s}: {w}" if w else s for s, w in zip(table["skill"], table["word"])]
  axes.set_yticks(at, [_text(name) for name in names], fontsize=8)
  axes.set_xlim(0, 1)
  note = " (planted blind spots in orange)" if any(planted) else ""
  axes.set_xlabel(f"failure rate{note}")
  return _svg(figure)


def hacking(table: pd.DataFrame) -> str:
  """The course of `hacking.panel` over training: gaps, prefixes, silent groups."""
  table = table[table["window"] >= 0]
  figure, axes = _figure(2, 2, width=10, height=6)
  colors = _color(table)
  panels = {
    "fdr_gap": "FDR, verifier − evaluator",
    "denied": "rewarded failures that the evaluator denies",
    "top_prefix_share": "share of the most common prefix",
    "zero_variance": "groups of equal rewards",
  }
  for one, (column, title) in zip(axes.ravel(), panels.items()):
    for arm, part in table.groupby("arm", sort=False):
      one.plot(
        part["step"], part[column].astype(float), color=colors[arm], label=_text(arm)
      )
      if f"{column}_low" in part:
        one.fill_between(
          part["step"],
          part[f"{column}_low"].astype(float),
          part[f"{column}_high"].astype(float),
          color=colors[arm],
          alpha=0.15,
          linewidth=0,
        )
    one.set_title(title, fontsize=9)
    one.set_xlabel("step")
  axes[0, 0].legend(fontsize=7)
  return _svg(figure)
