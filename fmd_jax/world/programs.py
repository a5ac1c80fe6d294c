"""Programs: what a question asks, and what a scene answers.

A question parses to a `Program`; `execute` runs it on a scene. Whatever stops a
question from having one visible, unambiguous answer is raised as `Invalid`, which
names the criterion that fails and why.
"""

import collections
import dataclasses
import math

from fmd_jax.world.scenes import SIDE, Object, Scene

RELATION_MARGIN = 8.0  # pixels: closer than this, left or right is a matter of taste
NEAREST_MARGIN = 6.0  # pixels between the nearest and the next
MIDDLE_MARGIN = 6.0  # pixels around the middle lines of the picture
EXTREMES = ("leftmost", "rightmost", "topmost", "bottommost")
DIRECTIONAL = ("left", "right", "above", "below")


class Invalid(Exception):
  """A question that this scene can't answer; `criterion` is what it fails."""

  def __init__(self, criterion: str, reason: str):
    super().__init__(reason)
    self.criterion = criterion
    self.reason = reason


@dataclasses.dataclass(frozen=True)
class Description:
  """Attributes that an object must have; None means any."""

  shape: str | None = None
  color: str | None = None
  size: str | None = None
  pattern: str | None = None
  letter: str | None = None

  def given(self) -> dict[str, str]:
    return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

  def matches(self, item: Object) -> bool:
    return all(getattr(item, k) == v for k, v in self.given().items())


@dataclasses.dataclass(frozen=True)
class NounPhrase:
  """ "the leftmost red circle", "the square left of the star", …

  Attributes:
    relation: one of DIRECTIONAL or "nearest", to `anchor`; None without anchor.
  """

  description: Description
  extreme: str | None = None
  relation: str | None = None
  anchor: "NounPhrase | None" = None


@dataclasses.dataclass(frozen=True)
class Program:
  """What is asked.

  Attributes:
    family: attribute verify exist count negation relation same larger ocr
      orientation points quadrant majority compare.
    attribute: what is asked about (attribute, verify, same, majority).
    target, other: the objects asked about.
    described, described_other: sets of objects (exist, count, negation, compare).
    relation: between target and other, or between the described and `other`.
    value: what is claimed (verify, points) or excluded (negation).
  """

  family: str
  attribute: str | None = None
  target: NounPhrase | None = None
  other: NounPhrase | None = None
  described: Description | None = None
  described_other: Description | None = None
  relation: str | None = None
  value: str | None = None


def _within(gap: float, margin: float) -> bool:
  # Positions are in tenths; 36.8 - 28.8 is a little less than 8.
  return round(abs(gap), 6) < margin


def holds(relation: str, a: Object, b: Object) -> bool:
  """Whether `a` is left of, right of, above or below `b`."""
  offset = {
    "left": b.x - a.x,
    "right": a.x - b.x,
    "above": b.y - a.y,
    "below": a.y - b.y,
  }[relation]
  if _within(offset, RELATION_MARGIN):
    raise Invalid("objective", f"too close to call which is {relation}")
  return offset > 0


def resolve(phrase: NounPhrase, scene: Scene) -> Object:
  """Finds the one object that a noun phrase means.

  Raises:
    Invalid: none (grounded), several or a near tie (objective).
  """
  found = [item for item in scene.objects if phrase.description.matches(item)]
  if phrase.anchor is not None:
    anchor = resolve(phrase.anchor, scene)
    found = [item for item in found if item is not anchor]
    if phrase.relation == "nearest":
      found = _nearest(found, anchor)
    else:
      found = [item for item in found if holds(phrase.relation, item, anchor)]
  if not found:
    raise Invalid("grounded", "what the question refers to is not in the image")
  if phrase.extreme is not None:
    found = [_outermost(phrase.extreme, found)]
  if len(found) > 1:
    raise Invalid("objective", f"the reference fits {len(found)} objects")
  return found[0]


def _nearest(found: list[Object], anchor: Object) -> list[Object]:
  ranked = sorted(
    (math.hypot(o.x - anchor.x, o.y - anchor.y), i) for i, o in enumerate(found)
  )
  if len(ranked) > 1 and _within(ranked[1][0] - ranked[0][0], NEAREST_MARGIN):
    raise Invalid("objective", "too close to call which is nearest")
  return [found[ranked[0][1]]] if ranked else []


def _outermost(extreme: str, found: list[Object]) -> Object:
  if len(found) < 2:
    raise Invalid("objective", f"{extreme} of only one object")
  score = {
    "leftmost": lambda o: o.x,
    "rightmost": lambda o: -o.x,
    "topmost": lambda o: o.y,
    "bottommost": lambda o: -o.y,
  }[extreme]
  ranked = sorted(found, key=score)
  if _within(score(ranked[1]) - score(ranked[0]), RELATION_MARGIN):
    raise Invalid("objective", f"too close to call which is {extreme}")
  return ranked[0]


def _not_given(phrase: NounPhrase, attribute: str) -> None:
  if attribute in phrase.description.given():
    raise Invalid("grounded", f"the question itself tells the {attribute}")


def execute(program: Program, scene: Scene) -> str:
  """The true answer, in canonical form ("red", "yes", "3", "top left", "H", "up").

  Raises:
    Invalid: the question has no single answer in this scene.
  """
  return _FAMILIES[program.family](program, scene)


def _attribute(p: Program, scene: Scene) -> str:
  _not_given(p.target, p.attribute)
  return getattr(resolve(p.target, scene), p.attribute)


def _verify(p: Program, scene: Scene) -> str:
  return _yes(_attribute(p, scene) == p.value)


def _select(p: Program, scene: Scene) -> list[Object]:
  found = [item for item in scene.objects if p.described.matches(item)]
  if p.other is not None:
    anchor = resolve(p.other, scene)
    found = [o for o in found if o is not anchor and holds(p.relation, o, anchor)]
  return found


def _exist(p: Program, scene: Scene) -> str:
  return _yes(bool(_select(p, scene)))


def _count(p: Program, scene: Scene) -> str:
  return str(len(_select(p, scene)))


def _negation(p: Program, scene: Scene) -> str:
  if p.attribute in p.described.given():
    raise Invalid("grounded", f"the question itself tells the {p.attribute}")
  kept = [o for o in _select(p, scene) if getattr(o, p.attribute) != p.value]
  return str(len(kept))


def _pair(p: Program, scene: Scene) -> tuple[Object, Object]:
  a, b = resolve(p.target, scene), resolve(p.other, scene)
  if a is b:
    raise Invalid("objective", "both references mean the same object")
  return a, b


def _relation(p: Program, scene: Scene) -> str:
  return _yes(holds(p.relation, *_pair(p, scene)))


def _same(p: Program, scene: Scene) -> str:
  a, b = _pair(p, scene)
  if p.attribute in p.target.description.given():
    _not_given(p.other, p.attribute)
  return _yes(getattr(a, p.attribute) == getattr(b, p.attribute))


def _larger(p: Program, scene: Scene) -> str:
  a, b = _pair(p, scene)
  if "size" in p.target.description.given():
    _not_given(p.other, "size")
  return _yes((a.size, b.size) == ("large", "small"))


def _ocr(p: Program, scene: Scene) -> str:
  _not_given(p.target, "letter")
  letter = resolve(p.target, scene).letter
  if letter is None:
    raise Invalid("grounded", "there is no letter on it")
  return letter


def _orientation(p: Program, scene: Scene) -> str:
  direction = resolve(p.target, scene).direction
  if direction is None:
    raise Invalid("grounded", "only an arrow points")
  return direction


def _points(p: Program, scene: Scene) -> str:
  return _yes(_orientation(p, scene) == p.value)


def quadrant(item: Object) -> str:
  """Which quarter of the picture an object's centre is in."""
  middle = SIDE / 2
  if any(_within(offset - middle, MIDDLE_MARGIN) for offset in (item.x, item.y)):
    raise Invalid("objective", "too near the middle to call a corner")
  down = "top" if item.y < middle else "bottom"
  return f"{down} {'left' if item.x < middle else 'right'}"


def _quadrant(p: Program, scene: Scene) -> str:
  return quadrant(resolve(p.target, scene))


def _majority(p: Program, scene: Scene) -> str:
  counts = collections.Counter(getattr(o, p.attribute) for o in scene.objects)
  (value, most), *rest = counts.most_common()
  if most < 2 or (rest and rest[0][1] == most):
    raise Invalid("objective", f"no single most common {p.attribute}")
  return value


def _compare(p: Program, scene: Scene) -> str:
  if p.described == p.described_other:
    raise Invalid("objective", "compares a set with itself")
  counts = [
    sum(d.matches(o) for o in scene.objects) for d in (p.described, p.described_other)
  ]
  return _yes(counts[0] > counts[1])


def _yes(truth: bool) -> str:
  return "yes" if truth else "no"


_FAMILIES = {
  "attribute": _attribute,
  "verify": _verify,
  "exist": _exist,
  "count": _count,
  "negation": _negation,
  "relation": _relation,
  "same": _same,
  "larger": _larger,
  "ocr": _ocr,
  "orientation": _orientation,
  "points": _points,
  "quadrant": _quadrant,
  "majority": _majority,
  "compare": _compare,
}
