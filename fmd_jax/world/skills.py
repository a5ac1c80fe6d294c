"""Which skills a question needs, and which cells (skill x attribute value) it tests."""

from fmd_jax.world.grammar import parse
from fmd_jax.world.programs import (
  DIRECTIONAL,
  Invalid,
  NounPhrase,
  Program,
  quadrant,
  resolve,
)
from fmd_jax.world.scenes import Object, Scene

SKILLS = (
  "existence",
  "color",
  "shape",
  "size",
  "pattern",
  "counting_all",
  "counting_attribute",
  "left_right",
  "above_below",
  "quadrant",
  "extremum",
  "nearest",
  "same_different",
  "larger",
  "ocr",
  "orientation",
  "negation",
  "majority",
  "comparison",
  "two_hop",
)
EASY_SKILLS = ("existence", "color", "shape", "size", "pattern")
_CELL_ATTRIBUTES = ("color", "shape", "size", "pattern")


def base_skill(program: Program) -> str:
  """The skill of the question itself, whatever its references need."""
  match program.family:
    case "attribute" | "verify":
      return program.attribute
    case "exist":
      return "existence"
    case "count":
      plain = not program.described.given() and program.other is None
      return "counting_all" if plain else "counting_attribute"
    case "relation":
      return _relation_skill(program.relation)
    case "same":
      return "same_different"
    case "points":
      return "orientation"
    case "compare":
      return "comparison"
    case family:
      return family  # negation larger ocr orientation quadrant majority


def _relation_skill(relation: str) -> str:
  return "left_right" if relation in ("left", "right") else "above_below"


def skills(program: Program) -> tuple[str, ...]:
  """Distinct skills, hardest first: the first one is what the question is filed under.

  A reference through another object adds `nearest`, or `two_hop` and the relation's own
  skill.
  """
  needed: list[str] = []

  def visit(phrase: NounPhrase | None) -> None:
    if phrase is None:
      return
    if phrase.relation == "nearest":
      needed.append("nearest")
    elif phrase.relation in DIRECTIONAL:
      needed.extend(("two_hop", _relation_skill(phrase.relation)))
    if phrase.extreme is not None:
      needed.append("extremum")
    visit(phrase.anchor)

  visit(program.target)
  visit(program.other)
  if program.described is not None and program.other is not None:
    needed.extend(("two_hop", _relation_skill(program.relation)))
  return tuple(dict.fromkeys([*needed, base_skill(program)]))


def skills_of(question: str) -> tuple[str, ...]:
  """`skills` of a question's text, whatever the scene; none when it can't be read."""
  reading = parse(question)
  program = None if reading is None else reading.program
  return () if program is None else skills(program)


def cells(program: Program, scene: Scene) -> tuple[str, ...]:
  """Cells `skill/attribute=value` of a valid question, for its base skill.

  Values are those of the object asked about, or those that the question names when
  it asks about a set. The attribute asked for is left out: it is the answer.
  """
  skill = base_skill(program)
  if program.described is not None:
    values = program.described.given()
    if program.value is not None:
      values = {**values, program.attribute: program.value}
  elif program.target is not None:
    item = resolve(program.target, scene)
    values = {name: getattr(item, name) for name in _CELL_ATTRIBUTES}
    values |= _where(item, skill)
    if program.attribute in values:
      del values[program.attribute]
  else:
    values = {"attribute": program.attribute}
  return tuple(f"{skill}/{name}={value}" for name, value in values.items())


def _where(item: Object, skill: str) -> dict[str, str]:
  if skill == "quadrant":
    return {}
  try:
    return {"quadrant": quadrant(item).replace(" ", "_")}
  except Invalid:
    return {}
