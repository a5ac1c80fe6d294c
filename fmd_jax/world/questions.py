"""Draws valid questions about a scene, by skill.

`python -m fmd_jax.world.questions` counts the two-word prefixes within reach.
"""

import collections
import dataclasses
import functools
import random
from collections.abc import Mapping

from fmd_jax.world.grammar import realise
from fmd_jax.world.oracle import QuestionVerdict, judge_question
from fmd_jax.world.programs import (
  DIRECTIONAL,
  EXTREMES,
  Description,
  NounPhrase,
  Program,
)
from fmd_jax.world.scenes import (
  DIRECTIONS,
  VALUES,
  Object,
  Scene,
  sample_scene,
)
from fmd_jax.world.skills import SKILLS

ATTRIBUTES = tuple(VALUES)
UNIFORM = dict.fromkeys(SKILLS, 1.0)
LEAD_SHARE = 0.12
_TRIES = 12
_CLAIMS = ("verify", "points")  # "Is the star red?" for "What color is the star?"


@dataclasses.dataclass(frozen=True)
class AskedQuestion:
  """A question with the oracle's verdict on it."""

  text: str
  verdict: QuestionVerdict


def sample_question(
  rng: random.Random,
  scene: Scene,
  skill_weights: Mapping[str, float] = UNIFORM,
  lead_share: float = LEAD_SHARE,
  habit: float = 0.0,
) -> AskedQuestion:
  """Draws a valid question; skills that the scene can't serve are drawn again.

  Args:
    rng: of all draws.
    scene: what is asked about.
    skill_weights: how often each skill is asked.
    lead_share: how often a lead-in ("Looking at the picture ...") comes first.
    habit: how often the commonest wording is taken and no claim is put forward, as a
      speaker of few openers does.
  """
  names, weights = list(skill_weights), list(skill_weights.values())
  while True:
    skill = rng.choices(names, weights)[0]
    for _ in range(_TRIES):
      plainest = habit > 0 and rng.random() < habit
      asked = _attempt(rng, scene, skill, lead_share, plainest)
      if asked is not None:
        return asked


def _attempt(rng, scene, skill, lead_share, plainest) -> AskedQuestion | None:
  program = _DRAW[skill](rng, scene)
  if program is None or (plainest and program.family in _CLAIMS):
    return None
  text = realise(program, rng, lead_share, plainest)
  verdict = judge_question(text, scene)
  # A text that reads as another program is no example of this one.
  if not verdict.valid or verdict.program != program:
    return None
  return AskedQuestion(text, verdict)


# ---- references -----------------------------------------------------------------


def describe_object(
  rng: random.Random, item: Object, without: tuple[str, ...] = (), most: int = 3
) -> Description:
  """A description that fits `item`, by one to `most` of its attributes."""
  names = [name for name in ATTRIBUTES if name not in without]
  number = rng.choices((1, 2, 3), (3, 3, 1))[0]
  chosen = rng.sample(names, min(number, most, len(names)))
  values = {name: getattr(item, name) for name in chosen}
  if item.letter and "letter" not in without and rng.random() < 0.08:
    values["letter"] = item.letter
  return Description(**values)


def refer(
  rng: random.Random, scene: Scene, item: Object, without: tuple[str, ...] = ()
) -> NounPhrase | None:
  """A plain reference that fits just this object; None when luck runs out."""
  for _ in range(6):
    description = describe_object(rng, item, without)
    if sum(description.matches(o) for o in scene.objects) == 1:
      return NounPhrase(description)
  return None


def _loose(rng: random.Random, item: Object, without: str) -> Description:
  """A description for a phrase that something else makes unique."""
  if rng.random() < 0.5:
    return Description()
  name = rng.choice([n for n in ATTRIBUTES if n != without])
  return Description(**{name: getattr(item, name)})


def _about(attribute: str, target: NounPhrase | None, rng) -> Program | None:
  if target is None:
    return None
  if rng.random() < 0.2:
    value = rng.choice(VALUES[attribute])
    return Program("verify", attribute=attribute, target=target, value=value)
  return Program("attribute", attribute=attribute, target=target)


# ---- one drawer a skill ---------------------------------------------------------


def _attribute(attribute: str, rng, scene) -> Program | None:
  item = rng.choice(scene.objects)
  target = refer(rng, scene, item, (attribute,))
  if target is not None and rng.random() < 0.2:
    # Half of the claims are true.
    value = getattr(item, attribute)
    if rng.random() < 0.5:
      value = rng.choice([v for v in VALUES[attribute] if v != value])
    return Program("verify", attribute=attribute, target=target, value=value)
  return target and Program("attribute", attribute=attribute, target=target)


def _set(rng, scene, most: int = 3) -> Description:
  """A description of something there, or nearly: one attribute may be off."""
  description = describe_object(rng, rng.choice(scene.objects), ("letter",), most)
  if rng.random() < 0.5:
    name = rng.choice(list(description.given()))
    changed = {name: rng.choice(VALUES[name])}
    description = dataclasses.replace(description, **changed)
  return description


def _existence(rng, scene) -> Program:
  return Program("exist", described=_set(rng, scene))


def _counting_all(rng, scene) -> Program:
  return Program("count", described=Description())


def _counting_attribute(rng, scene) -> Program:
  return Program("count", described=_set(rng, scene, 2))


def _relation(relations: tuple[str, str], rng, scene) -> Program | None:
  a, b = rng.sample(scene.objects, 2)
  target, other = refer(rng, scene, a), refer(rng, scene, b)
  if target is None or other is None:
    return None
  relation = rng.choice(relations)
  return Program("relation", target=target, other=other, relation=relation)


def _quadrant(rng, scene) -> Program | None:
  target = refer(rng, scene, rng.choice(scene.objects))
  return target and Program("quadrant", target=target)


def _extremum(rng, scene) -> Program | None:
  attribute = rng.choice(ATTRIBUTES)
  description = _loose(rng, rng.choice(scene.objects), attribute)
  return _about(attribute, NounPhrase(description, rng.choice(EXTREMES)), rng)


def _hop(relations: tuple[str, ...], rng, scene) -> Program | None:
  item, anchor = rng.sample(scene.objects, 2)
  attribute = rng.choice(ATTRIBUTES)
  reference = refer(rng, scene, anchor)
  if reference is None:
    return None
  description = _loose(rng, item, attribute)
  phrase = NounPhrase(description, None, rng.choice(relations), reference)
  return _about(attribute, phrase, rng)


def _two_hop(rng, scene) -> Program | None:
  if rng.random() < 0.6:
    return _hop(DIRECTIONAL, rng, scene)
  other = refer(rng, scene, rng.choice(scene.objects))
  family = rng.choice(("count", "exist"))
  described = Description() if family == "count" else _set(rng, scene, 2)
  if family == "count" and rng.random() < 0.4:
    described = _set(rng, scene, 1)
  relation = rng.choice(DIRECTIONAL)
  return other and Program(family, described=described, other=other, relation=relation)


def _same_different(rng, scene) -> Program | None:
  a, b = rng.sample(scene.objects, 2)
  attribute = rng.choice(ATTRIBUTES)
  target = refer(rng, scene, a, (attribute,))
  other = refer(rng, scene, b, (attribute,))
  if target is None or other is None:
    return None
  return Program("same", attribute=attribute, target=target, other=other)


def _larger(rng, scene) -> Program | None:
  a, b = rng.sample(scene.objects, 2)
  target = refer(rng, scene, a, ("size",))
  other = refer(rng, scene, b, ("size",))
  if target is None or other is None:
    return None
  return Program("larger", target=target, other=other)


def _ocr(rng, scene) -> Program | None:
  lettered = [item for item in scene.objects if item.letter]
  if not lettered:
    return None
  target = refer(rng, scene, rng.choice(lettered), ("letter",))
  return target and Program("ocr", target=target)


def _orientation(rng, scene) -> Program | None:
  arrows = [item for item in scene.objects if item.direction]
  if not arrows:
    return None
  item = rng.choice(arrows)
  target = refer(rng, scene, item)
  if target is not None and rng.random() < 0.2:
    value = item.direction if rng.random() < 0.5 else rng.choice(DIRECTIONS)
    return Program("points", target=target, value=value)
  return target and Program("orientation", target=target)


def _negation(rng, scene) -> Program:
  item = rng.choice(scene.objects)
  attribute = rng.choice(("color", "pattern", "size"))
  described = Description()
  if rng.random() < 0.4:
    described = Description(shape=item.shape)
  value = getattr(rng.choice(scene.objects), attribute)
  return Program("negation", attribute=attribute, described=described, value=value)


def _majority(rng, scene) -> Program:
  return Program("majority", attribute=rng.choice(ATTRIBUTES))


def _comparison(rng, scene) -> Program:
  name = rng.choice(ATTRIBUTES)
  values = {getattr(item, name) for item in scene.objects}
  pool = sorted(values) + [rng.choice(VALUES[name])]
  a, b = rng.choice(pool), rng.choice(VALUES[name])
  sides = (Description(**{name: a}), Description(**{name: b}))
  return Program("compare", described=sides[0], described_other=sides[1])


_DRAW = {
  "existence": _existence,
  **{name: functools.partial(_attribute, name) for name in ATTRIBUTES},
  "counting_all": _counting_all,
  "counting_attribute": _counting_attribute,
  "left_right": functools.partial(_relation, ("left", "right")),
  "above_below": functools.partial(_relation, ("above", "below")),
  "quadrant": _quadrant,
  "extremum": _extremum,
  "nearest": functools.partial(_hop, ("nearest",)),
  "same_different": _same_different,
  "larger": _larger,
  "ocr": _ocr,
  "orientation": _orientation,
  "negation": _negation,
  "majority": _majority,
  "comparison": _comparison,
  "two_hop": _two_hop,
}


def prefix_counts(n: int, seed: int = 0) -> collections.Counter:
  """Two-word prefixes of `n` valid questions on as many scenes / 8."""
  rng = random.Random(seed)
  counts: collections.Counter = collections.Counter()
  for _ in range(n // 8):
    scene = sample_scene(rng)
    for _ in range(8):
      words = sample_question(rng, scene).text.lower().rstrip("?").split()
      counts[" ".join(w.strip(",") for w in words[:2])] += 1
  return counts


def main() -> None:
  n = 40_000
  counts = prefix_counts(n)
  print(f"{len(counts)} two-word prefixes in {n} valid questions; the first 20:")
  for prefix, count in counts.most_common(20):
    print(f"  {count / n:6.2%}  {prefix}")


if __name__ == "__main__":
  main()
