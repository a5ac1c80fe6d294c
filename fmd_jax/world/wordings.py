"""What a model would say of the world's skills: paraphrases, labels, groups.

The testbed's annotator and namer speak from these tables. No phrase contains a skill's
id, so that skills have to be recovered from meaning; `skill_of` inverts the tables.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence

NOISE = 0.1  # share of the primitives that name no skill
OTHER = ""  # what `skill_of` says of a phrase that names no skill


@dataclasses.dataclass(frozen=True)
class Wording:
  """How one skill is spoken of.

  Attributes:
    label: the name a careful namer gives it.
    meta_skill: the group it belongs to.
    phrases: paraphrases, |-separated in the table below.
  """

  label: str
  meta_skill: str
  phrases: tuple[str, ...]


def _wording(label: str, meta_skill: str, phrases: str) -> Wording:
  return Wording(label, meta_skill, tuple(p.strip() for p in phrases.split("|")))


WORDINGS = {
  "existence": _wording(
    "object presence detection",
    "object recognition",
    "checking whether something is present|detecting if an object appears at all|"
    "presence or absence detection|verifying that an object can be found|"
    "confirming something is in view|noticing if a described thing is there|"
    "object presence verification|deciding if such a thing exists at all|"
    "spotting whether such an item occurs|yes-or-no detection of an item",
  ),
  "color": _wording(
    "hue recognition",
    "attribute recognition",
    "hue identification|naming the colour of an object|telling what colour it has|"
    "colour perception|recognising paint and tint|distinguishing hues|"
    "reading off an item's colour|chromatic discrimination|"
    "colour naming for a single item|seeing which hue a surface has",
  ),
  "shape": _wording(
    "geometric form recognition",
    "attribute recognition",
    "identification of geometric form|telling a circle from a polygon|"
    "identifying the outline of a figure|naming the geometric figure|"
    "silhouette classification|polygon and contour recognition|"
    "recognising geometric outlines|distinguishing triangles from circles|"
    "perception of geometric form|classifying a figure by its contour",
  ),
  "size": _wording(
    "scale judgement of one object",
    "attribute recognition",
    "judging how big something is|telling large from small|"
    "magnitude estimation of one object|estimating the dimensions of an item|"
    "big or small judgement|assessing how large an object is|"
    "scale perception of a single item|deciding whether an item is big|"
    "judging an item to be big or small|recognising small versus large items",
  ),
  "pattern": _wording(
    "surface texture recognition",
    "attribute recognition",
    "identification of surface texture|telling stripes from dots|"
    "recognising the fill of an object|striped, dotted or solid discrimination|"
    "identifying surface markings|texture and fill identification|"
    "reading how a surface is decorated|stripe and dot detection on an item|"
    "naming a surface's texture|perceiving solid versus hollow fill",
  ),
  "counting_all": _wording(
    "whole scene enumeration",
    "quantity",
    "enumerating every object there is|total object count|"
    "tallying all items in view|whole-scene numerosity|"
    "counting everything in the whole scene|"
    "estimating the total number of objects|full scene enumeration|"
    "counting everything visible|overall quantity estimation|"
    "adding up all items of the scene",
  ),
  "counting_attribute": _wording(
    "selective counting",
    "quantity",
    "counting only objects of a described kind|tallying items of one kind|"
    "enumerating only the matching objects|counting of selected items|"
    "counting things of a given type|filtered enumeration|"
    "counting a described subset|tallying items with a certain feature|"
    "subset tallying by description|how many objects match a description",
  ),
  "left_right": _wording(
    "horizontal relation",
    "spatial relations",
    "horizontal position judgement|telling on which side of another an object is|"
    "sideways spatial relation|lateral order of two objects|"
    "deciding what lies to the west of what|side-to-side position relation|"
    "horizontal ordering|lateral relation understanding|"
    "judging on which side things are placed|horizontal arrangement of a pair",
  ),
  "above_below": _wording(
    "vertical relation",
    "spatial relations",
    "vertical position judgement|telling which object is higher|"
    "up-and-down vertical relation|judging over and under placement|"
    "vertical order from top to bottom|height order of two things|"
    "deciding whether something is above another|judging which thing is higher up|"
    "vertical arrangement reasoning|elevation comparison of objects",
  ),
  "quadrant": _wording(
    "image corner localisation",
    "spatial relations",
    "locating the corner of the image an object is in|"
    "absolute position in the frame|naming which corner holds an item|"
    "corner localisation|placing an object in a region of the frame|"
    "naming the corner region of the picture|frame position localisation|"
    "telling upper corners from lower corners|grounding an item to an image corner|"
    "finding which part of the frame is occupied",
  ),
  "extremum": _wording(
    "outermost object selection",
    "spatial relations",
    "finding the outermost object|locating the item furthest to one side|"
    "selecting the topmost or leftmost item|identifying the most outlying item|"
    "edge-most object search|picking the object at the very edge|"
    "superlative position reference|determining which item is furthest out|"
    "finding the rightmost or topmost item|outermost item selection",
  ),
  "nearest": _wording(
    "proximity judgement",
    "spatial relations",
    "finding the closest object|judgement of proximity|"
    "identifying a neighbour by distance|distance-based selection|"
    "telling which neighbour is closest|closest neighbour search|"
    "spatial proximity reasoning|estimating gaps between objects|"
    "picking the neighbour at the shortest distance|adjacency by closeness",
  ),
  "same_different": _wording(
    "pairwise attribute matching",
    "comparison",
    "judging whether two objects match|equality test between items|"
    "matching a trait across two objects|judging the likeness of two things|"
    "deciding if two things share a feature|pairwise similarity check|"
    "attribute matching of a pair|sameness detection|"
    "checking if two objects agree in a trait|telling identical from unlike pairs",
  ),
  "larger": _wording(
    "pairwise magnitude comparison",
    "comparison",
    "comparing the dimensions of two objects|deciding which of two things is bigger|"
    "relative bigness of two objects|telling the bigger of two objects|"
    "which object takes up more space|bigger-than relation|"
    "scale comparison between two items|contrasting the extents of two objects|"
    "ordering two items by how big they are|"
    "judging if one object is bigger than another",
  ),
  "ocr": _wording(
    "letter reading",
    "symbol reading",
    "reading a letter|character recognition|text reading|"
    "identifying the printed letter on an object|glyph recognition|"
    "alphabet character identification|deciphering written symbols|"
    "reading what is written on an item|letter decoding|typographic symbol reading",
  ),
  "orientation": _wording(
    "pointing direction recognition",
    "symbol reading",
    "telling which way an arrow points|direction of pointing|heading estimation|"
    "reading an arrow's direction|rotation perception|"
    "recognition of a pointing direction|detecting where an arrow is facing|"
    "facing direction judgement|recognising up, down and sideways pointing|"
    "directional cue interpretation",
  ),
  "negation": _wording(
    "logical exclusion",
    "quantity",
    "excluding objects that have a property|excluding items with a given feature|"
    "reasoning with 'not'|handling a logical exclusion|"
    "reasoning about what is not the case|reasoning about the complement of a set|"
    "understanding exclusion conditions|exclusion of described items|"
    "set complement reasoning|exclusion by a feature",
  ),
  "majority": _wording(
    "dominant feature identification",
    "quantity",
    "finding the most common attribute|identifying the dominant feature of the scene|"
    "most frequent value detection|determining the prevailing trait|"
    "which characteristic occurs most often|finding the most frequent attribute value|"
    "recognising the predominant property|identifying the predominant feature|"
    "picking the prevalent attribute|frequency ranking of features",
  ),
  "comparison": _wording(
    "group quantity comparison",
    "comparison",
    "comparing the counts of two groups|deciding which group has more members|"
    "more-or-fewer judgement between sets|relative numerosity of two groups|"
    "contrasting the counts of two kinds|"
    "weighing one group's number against another's|"
    "quantity contrast across groups|telling which kind is more numerous|"
    "set cardinality contrast|judging whether one kind outnumbers another",
  ),
  "two_hop": _wording(
    "indirect reference resolution",
    "compositional reasoning",
    "resolving a reference through another object|multi-step reference resolution|"
    "chained reference resolution|following a relation to find the target|"
    "indirect object reference|resolving nested references|"
    "compositional referent search|resolving a reference in several steps|"
    "two-stage object lookup|finding the target via an intermediate item",
  ),
}
VAGUE = _wording(
  "general attention",
  "general abilities",
  "attention to detail|scene understanding|language comprehension|"
  "following instructions|general visual perception|concentration|"
  "image understanding|common sense|focus|understanding the question|"
  "basic literacy|careful observation",
)
# The same thing said in other ways, as models do; the first is the bare phrase.
_FRAMES = ("{}", "basic {}", "visual {}", "{} in the picture", "{} skill", "{} ability")
_LABEL_FRAMES = ("{}", "{}.", "the skill of {}", "ability of {}", "{} skill", "{} task")


def primitives(needed: Sequence[str], *key: str) -> list[str]:
  """What the annotator calls the skills that a question needs, hardest first.

  One phrase in ten names no skill of the world ("attention to detail").

  Args:
    needed: skills of the world.
    *key: image and question; the draws are a hash of it.
  """
  out = []
  for skill in needed:
    wording = WORDINGS[skill]
    if _uniform("noise", skill, *key) < NOISE:
      wording = VAGUE
    phrase = _drawn(wording.phrases, "phrase", skill, *key)
    out.append(_drawn(_FRAMES, "frame", skill, *key).format(phrase))
  return out


def label(phrases: Sequence[str]) -> str:
  """The name of what most of the phrases speak of, in one of several spellings."""
  skills = [skill_of(phrase) for phrase in phrases]
  # Ties by the table's order, so that the order of the phrases has no say.
  common = max([*WORDINGS, OTHER], key=skills.count)
  wording = WORDINGS.get(common, VAGUE)
  text = _drawn(_LABEL_FRAMES, "label", *sorted(phrases)).format(wording.label)
  return text.title() if _uniform("case", *sorted(phrases)) < 0.5 else text


def meta_skills(labels: Sequence[str]) -> dict[str, list[str]]:
  """Groups labels by the skill that each of them names; the rest go together."""
  known = {wording.label: wording.meta_skill for wording in (*WORDINGS.values(), VAGUE)}
  groups: dict[str, list[str]] = {}
  for text in labels:
    found = [meta for name, meta in known.items() if name in text.lower()]
    groups.setdefault(found[0] if found else VAGUE.meta_skill, []).append(text)
  return groups


def skill_of(phrase: str) -> str:
  """The skill that a phrase of these tables names; OTHER when it names none."""
  return _inverse().get(_bare(phrase), OTHER)


@functools.cache
def _inverse() -> dict[str, str]:
  return {
    _bare(frame.format(phrase)): skill
    for skill, wording in WORDINGS.items()
    for phrase in wording.phrases
    for frame in _FRAMES
  }


def _bare(phrase: str) -> str:
  return re.sub(r"\W+", " ", phrase.lower()).strip()


def _drawn(options: Sequence[str], *key: str) -> str:
  return options[int(len(options) * _uniform(*key))]


def _uniform(*key: str) -> float:
  """A number in [0, 1) that depends on `key` and on nothing else."""
  digest = hashlib.blake2b("\0".join(key).encode(), digest_size=6).digest()
  return int.from_bytes(digest, "big") / 2**48
