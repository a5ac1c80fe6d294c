"""Draws questions that fail one criterion, by kind."""

import dataclasses
import functools
import random

from fmd_jax.world import templates
from fmd_jax.world.grammar import fill, parse, realise, sentence
from fmd_jax.world.oracle import judge_question
from fmd_jax.world.programs import Description, NounPhrase, Program
from fmd_jax.world.questions import (
  ATTRIBUTES,
  LEAD_SHARE,
  UNIFORM,
  AskedQuestion,
  describe_object,
  refer,
  sample_question,
)
from fmd_jax.world.scenes import VALUES, Object, Scene

INVALID_KINDS = (
  "ungrammatical",
  "compound",
  "off_image",
  "subjective",
  "absent",
  "ambiguous",
  "leading",
)


def sample_invalid(
  rng: random.Random, scene: Scene, kind: str, lead_share: float = LEAD_SHARE
) -> AskedQuestion:
  """Draws a question that fails in the way `kind` says (one of INVALID_KINDS)."""
  while True:
    text = _INVALID[kind](rng, scene, lead_share)
    if text is None:
      continue
    verdict = judge_question(text, scene)
    if not getattr(verdict, _FAILS[kind]):
      return AskedQuestion(text, verdict)


def _ungrammatical(rng, scene, lead_share) -> str | None:
  words = sample_question(rng, scene, UNIFORM, lead_share).text[:-1].split()
  i = rng.randrange(len(words))
  match rng.choice(("drop", "double", "swap")):
    case "drop":
      del words[i]
    case "double":
      words.insert(i, words[i])
    case "swap":
      j = rng.randrange(len(words))
      words[i], words[j] = words[j], words[i]
  text = " ".join(words) + "?"
  return None if parse(text) is not None else text


def _compound(rng, scene, lead_share) -> str:
  first, second = (
    sample_question(rng, scene, UNIFORM, lead).text for lead in (lead_share, 0)
  )
  return f"{first[:-1]} and {second[0].lower()}{second[1:]}"


def _target(rng, scene, item) -> NounPhrase | None:
  """A reference to just this object, or to all of them where all look the same."""
  if len(set(map(_looks, scene.objects))) == 1:
    return NounPhrase(describe_object(rng, item, ("letter",)))
  return refer(rng, scene, item)


def _looks(item: Object) -> tuple[str, ...]:
  return tuple(getattr(item, name) for name in ATTRIBUTES)


def _canned(forms, rng, scene, lead_share) -> str | None:
  item = rng.choice(scene.objects)
  target = _target(rng, scene, item)
  if target is None:
    return None
  stand_in = Program("verify", attribute="color", target=target, value=item.color)
  return sentence(fill(rng.choice(forms), stand_in, rng), rng, lead_share)


def _about_something(rng, scene, lead_share, description, attribute) -> str:
  program = Program("attribute", attribute=attribute, target=NounPhrase(description))
  return realise(program, rng, lead_share)


def _absent(rng, scene, lead_share) -> str | None:
  attribute = rng.choice(ATTRIBUTES)
  description = describe_object(rng, rng.choice(scene.objects), (attribute,))
  name = rng.choice(list(description.given()))
  if name == "letter":
    return None
  description = dataclasses.replace(description, **{name: rng.choice(VALUES[name])})
  if any(description.matches(item) for item in scene.objects):
    return None
  return _about_something(rng, scene, lead_share, description, attribute)


def _ambiguous(rng, scene, lead_share) -> str | None:
  attribute = rng.choice(ATTRIBUTES)
  looks = map(_looks, scene.objects)
  if all(len(set(values)) == len(values) for values in zip(*looks, strict=True)):
    # With nothing in common, all that fits two objects is "the object".
    return _about_something(rng, scene, lead_share, Description(), attribute)
  description = describe_object(
    rng, rng.choice(scene.objects), (attribute, "letter"), 1
  )
  if sum(description.matches(item) for item in scene.objects) < 2:
    return None
  return _about_something(rng, scene, lead_share, description, attribute)


def _leading(rng, scene, lead_share) -> str | None:
  attribute = rng.choice(ATTRIBUTES)
  target = _target(rng, scene, rng.choice(scene.objects))
  if target is None or attribute not in target.description.given():
    return None
  return _about_something(rng, scene, lead_share, target.description, attribute)


_INVALID = {
  "ungrammatical": _ungrammatical,
  "compound": _compound,
  "off_image": functools.partial(_canned, templates.UNGROUNDED),
  "subjective": functools.partial(_canned, templates.SUBJECTIVE),
  "absent": _absent,
  "ambiguous": _ambiguous,
  "leading": _leading,
}
_FAILS = {
  "ungrammatical": "grammatical",
  "compound": "atomic",
  "off_image": "grounded",
  "subjective": "objective",
  "absent": "grounded",
  "ambiguous": "objective",
  "leading": "grounded",
}
