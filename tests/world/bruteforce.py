"""A second oracle: how a text reads (tests/world/readings.py), then plain loops.

Shares no code with fmd_jax.world on purpose; only the margins, the scene classes and
the words for values are imported. What a question means, in the order in which
failures count:

1. It is one of the forms below, or "grammatical" fails. Two forms joined by "and"
   fail "atomic"; canned ones fail "grounded" or "objective".
2. A question about an attribute (or a letter) that its own reference names fails
   "grounded". A comparison of a set with itself fails "objective".
3. Every reference is looked up, the innermost first: nothing fits: "grounded";
   several fit, or a comparison is nearer than its margin: "objective".
4. What is left can fail for lack of a letter or direction ("grounded"), as one object
   compared with itself ("objective"), or as two objects that the question itself
   gives one attribute each ("grounded").
"""

import itertools
import math
import re
from typing import NamedTuple

from fmd_jax.world.programs import MIDDLE_MARGIN, NEAREST_MARGIN, RELATION_MARGIN
from fmd_jax.world.scenes import SHAPES, SIDE
from tests.world.readings import KIND, LETTER, NEAR, ONE, REL, plain, readings


class Judged(NamedTuple):
  """`failing` is a criterion or None; `answer` is None unless `failing` is."""

  failing: str | None
  answer: str | None = None


class _Fails(Exception):
  pass


# ---- reference ------------------------------------------------------------------


def _named(phrase):
  """Attribute -> value, for each attribute that a description names."""
  words = phrase.split()
  named = {KIND[word]: word for word in words if word in KIND}
  for word in words:
    for shape in SHAPES:
      if word in (shape, shape + "s"):
        named["shape"] = shape
  if words[-2:-1] == ["letter"]:
    named["letter"] = words[-1].upper()
  return named


def _fits(item, phrase):
  return all(getattr(item, k) == v for k, v in _named(phrase).items())


def _related(a, relation, b):
  """True, False, or None when it is too close to call."""
  word = relation.split()[-1] if relation in ("above", "below", "under") else None
  gap = a.y - b.y if word else a.x - b.x
  if round(abs(gap), 6) < RELATION_MARGIN:
    return None
  return gap < 0 if "left" in relation or word == "above" else gap > 0


def _head(phrase):
  """(description, relation, anchor): the latter two are None without anchor."""
  match = re.fullmatch(f"(the {ONE}{LETTER}) ({REL}|{NEAR}) (the .*)", phrase)
  return match.groups() if match else (phrase, None, None)


def _filter(items, relation, anchor):
  """Those of the items that have the relation to the anchor."""
  others = [item for item in items if item is not anchor]
  truth = [_related(item, relation, anchor) for item in others]
  if None in truth:
    raise _Fails("objective")
  return [item for item, holds in zip(others, truth, strict=True) if holds]


def _only(items):
  if len(items) != 1:
    raise _Fails("objective" if items else "grounded")
  return items[0]


def _beyond(items, distance, margin):
  """The items that are less far than every other one, all by the margin."""
  for a, b in itertools.combinations(items, 2):
    # Ties further out do not matter.
    nearer = sum(distance(o) < min(distance(a), distance(b)) for o in items)
    gap = abs(distance(a) - distance(b))
    if nearer == 0 and round(gap, 6) < margin:
      raise _Fails("objective")
  return [a for a in items if all(distance(a) <= distance(b) for b in items)]


def _the(phrase, scene):
  """The one object that a reference means."""
  head, relation, anchor_phrase = _head(phrase)
  anchor = None if anchor_phrase is None else _the(anchor_phrase, scene)
  items = [o for o in scene.objects if _fits(o, head) and o is not anchor]
  if relation and re.fullmatch(NEAR, relation):
    return _only(
      _beyond(
        items, lambda o: math.dist((o.x, o.y), (anchor.x, anchor.y)), NEAREST_MARGIN
      )
    )
  if relation:
    return _only(_filter(items, relation, anchor))
  end = phrase.split()[1]
  if end.endswith("most"):
    if len(items) < 2:
      raise _Fails("objective" if items else "grounded")
    x, y = {"l": (1, 0), "r": (-1, 0), "t": (0, 1), "b": (0, -1)}[end[0]]
    return _only(_beyond(items, lambda o: x * o.x + y * o.y, RELATION_MARGIN))
  return _only(items)


# ---- answers --------------------------------------------------------------------


def _answer(family, parts, scene):
  a, v, r = (parts.get(name) for name in "avr")
  if family in ("size", "pattern", "shape"):
    family, a = "attribute", family
  if family == "verify" or family == "negation":
    a = KIND.get(v, "shape")
  asked = {"attribute": a, "verify": a, "negation": a, "letter": "letter"}.get(family)
  subject = _head(parts["x"])[0] if "x" in parts else parts.get("s", "")
  if asked in _named(subject):
    raise _Fails("grounded")
  if family == "compare" and _named(parts["s"]) == _named(parts["t"]):
    raise _Fails("objective")
  x = _the(parts["x"], scene) if "x" in parts else None
  y = _the(parts["y"], scene) if "y" in parts else None
  if x is not None and x is y:
    raise _Fails("objective")
  among, versus = (
    [o for o in scene.objects if _fits(o, parts.get(name, ""))] for name in "st"
  )
  if "s" in parts and y is not None:
    among = _filter(among, r, y)
  if family in ("same", "larger"):
    both = a or "size"
    if all(both in _named(_head(parts[name])[0]) for name in "xy"):
      raise _Fails("grounded")
  return _FINDERS[family](scene, a, v, r, x, y, among, versus)


def _corner(item):
  gaps = (item.x - SIDE / 2, item.y - SIDE / 2)
  if any(round(abs(gap), 6) < MIDDLE_MARGIN for gap in gaps):
    raise _Fails("objective")
  return ("top " if gaps[1] < 0 else "bottom ") + ("left" if gaps[0] < 0 else "right")


def _there(value):
  if value is None:
    raise _Fails("grounded")
  return value


def _sure(truth):
  if truth is None:
    raise _Fails("objective")
  return "yes" if truth else "no"


def _most(values):
  counts = {value: sum(v == value for v in values) for value in values}
  best = [value for value, count in counts.items() if count == max(counts.values())]
  if len(best) > 1 or max(counts.values()) == 1:
    raise _Fails("objective")
  return best[0]


_FINDERS = {
  "attribute": lambda scene, a, v, r, x, *_: getattr(x, a),
  "verify": lambda scene, a, v, r, x, *_: _sure(getattr(x, a) == v),
  "exist": lambda scene, a, v, r, x, y, among, _: _sure(len(among) > 0),
  "count": lambda scene, a, v, r, x, y, among, _: str(len(among)),
  "negation": lambda scene, a, v, r, x, y, among, _: str(
    len(among) - sum(getattr(o, a) == v for o in among)
  ),
  "relation": lambda scene, a, v, r, x, y, *_: _sure(_related(x, r, y)),
  "same": lambda scene, a, v, r, x, y, *_: _sure(getattr(x, a) == getattr(y, a)),
  "larger": lambda scene, a, v, r, x, y, *_: _sure(
    x.size == "large" and y.size == "small"
  ),
  "letter": lambda scene, a, v, r, x, *_: _there(x.letter),
  "direction": lambda scene, a, v, r, x, *_: _there(x.direction),
  "points": lambda scene, a, v, r, x, *_: _sure(_there(x.direction) == v),
  "quadrant": lambda scene, a, v, r, x, *_: _corner(x),
  "majority": lambda scene, a, *_: _most([getattr(o, a) for o in scene.objects]),
  "compare": lambda scene, a, v, r, x, y, among, versus: _sure(
    len(among) > len(versus)
  ),
}


def judge(text, scene):
  """Judges a question about a scene: what fails first, or the true answer."""
  words = plain(text)
  if words is None:
    return Judged("grammatical")
  found = readings(words)
  if not found:
    halves = [
      (words[: m.start()], words[m.end() :]) for m in re.finditer(" and ", words)
    ]
    double = any(readings(left) and readings(right) for left, right in halves)
    return Judged("atomic" if double else "grammatical")
  verdicts = {_one_reading(*reading, scene) for reading in found}
  assert len(verdicts) == 1, (text, found)
  return verdicts.pop()


def _one_reading(family, parts, scene):
  if family in ("off the image", "opinion"):
    return Judged("grounded" if family == "off the image" else "objective")
  try:
    return Judged(None, _answer(family, parts, scene))
  except _Fails as failure:
    return Judged(str(failure))
