"""Text <-> program: a backtracking matcher over the table of surface forms."""

import collections
import dataclasses
import functools
import random
from collections.abc import Iterator

from fmd_jax.world import templates
from fmd_jax.world.programs import EXTREMES, Description, NounPhrase, Program
from fmd_jax.world.scenes import DIRECTIONS, LETTERS, SHAPES, VALUES
from fmd_jax.world.templates import LEADS, Template

NOUNS = ("object", "thing", "item", *SHAPES)
PICTURE = ("picture", "image", "scene")
_SYNONYMS = {"big": "large", "little": "small", "colour": "color"}
_RELATIONS = {
  "left": ("left of", "to the left of"),
  "right": ("right of", "to the right of"),
  "above": ("above",),
  "below": ("below", "under"),
}
_NEAREST = ("nearest to", "closest to")
_ADJECTIVES = {
  value: name for name in ("size", "color", "pattern") for value in VALUES[name]
}
_MAX_DEPTH = 2

Match = Iterator[tuple[dict, int]]
Tokens = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Parse:
  """How a text reads.

  Attributes:
    kind: "question", "compound" (two questions in one), "ungrounded" or
      "subjective" (asked well, but not about the picture, or no fact).
    program: what is asked, for a question; None otherwise.
    opener: the lead-in, if there is one.
  """

  kind: str
  program: Program | None = None
  opener: str = ""


def normalise(text: str) -> Tokens | None:
  """Lower-case words without commas; None unless it ends in its only "?"."""
  text = text.strip()
  if not text.endswith("?") or text.count("?") != 1:
    return None
  words = tuple(text[:-1].lower().replace(",", " ").split())
  return tuple(_SYNONYMS.get(word, word) for word in words) or None


@functools.lru_cache(maxsize=65536)
def parse(text: str) -> Parse | None:
  """Reads a question; None when it is not a sentence of this grammar."""
  tokens = normalise(text)
  if tokens is None:
    return None
  for opener, rest in _openers(tokens):
    for kind, forms in _TABLES.items():
      bindings = next(_match_any(forms, rest), None)
      if bindings is not None:
        program = _program(*bindings) if kind == "question" else None
        return Parse(kind, program, opener)
  for i, word in enumerate(tokens):
    if word == "and" and _is_clause(tokens[:i]) and _is_clause(tokens[i + 1 :]):
      return Parse("compound")
  return None


def _is_clause(tokens: Tokens) -> bool:
  return any(
    next(_match_any(forms, rest), None) is not None
    for _, rest in _openers(tokens)
    for forms in _TABLES.values()
  )


def _openers(tokens: Tokens) -> Iterator[tuple[str, Tokens]]:
  yield "", tokens
  for lead in LEADS:
    words = lead.split()
    head = tokens[: len(words)]
    if len(head) == len(words) and len(tokens) > len(words):
      same = zip(words, head, strict=True)
      if all(h in PICTURE if w == "{PIC}" else h == w for w, h in same):
        yield lead, tokens[len(words) :]


def _match_any(forms: dict, tokens: Tokens) -> Iterator[tuple[Template, dict]]:
  for template in (*forms.get(tokens[0] if tokens else "", ()), *forms["{"]):
    for bindings, end in _match(template.words, tokens, 0):
      if end == len(tokens):
        yield template, bindings
        break


def _match(words: Tokens, tokens: Tokens, i: int) -> Match:
  """All ways in which `words` matches a start of `tokens[i:]`."""
  while words and not words[0].startswith("{"):
    if i >= len(tokens) or tokens[i] != words[0]:
      return
    words, i = words[1:], i + 1
  if not words:
    yield {}, i
    return
  slot = words[0]
  for value, j in _SLOTS[slot](tokens, i):
    for rest, end in _match(words[1:], tokens, j):
      yield {slot: value, **rest}, end


def _description(tokens: Tokens, i: int, plural: bool) -> Iterator[tuple]:
  found: dict[str, str] = {}
  while i < len(tokens) and tokens[i] in _ADJECTIVES:
    name = _ADJECTIVES[tokens[i]]
    if name in found:
      return
    found[name] = tokens[i]
    i += 1
  if i >= len(tokens):
    return
  noun = tokens[i]
  if plural:
    if not noun.endswith("s"):
      return
    noun = noun[:-1]
  if noun not in NOUNS:
    return
  if noun in SHAPES:
    found["shape"] = noun
  i += 1
  if tokens[i : i + 3] == ("with", "the", "letter") and i + 3 < len(tokens):
    letter = tokens[i + 3].upper()
    if letter in LETTERS:
      yield Description(**found, letter=letter), i + 4
    return
  yield Description(**found), i


def _phrase(tokens: Tokens, i: int, depth: int = 0) -> Iterator[tuple]:
  """Noun phrases; the shortest first, so an outer relation keeps its words."""
  if i >= len(tokens) or tokens[i] != "the" or depth > _MAX_DEPTH:
    return
  i += 1
  extreme = tokens[i] if i < len(tokens) and tokens[i] in EXTREMES else None
  for description, j in _description(tokens, i + (extreme is not None), False):
    yield NounPhrase(description, extreme), j
    if extreme is None:
      for relation, k in _any_relation(tokens, j):
        for anchor, end in _phrase(tokens, k, depth + 1):
          yield NounPhrase(description, None, relation, anchor), end


def _relation(tokens: Tokens, i: int) -> Iterator[tuple]:
  for relation, forms in _RELATIONS.items():
    for form in forms:
      words = tuple(form.split())
      if tokens[i : i + len(words)] == words:
        yield relation, i + len(words)


def _any_relation(tokens: Tokens, i: int) -> Iterator[tuple]:
  yield from _relation(tokens, i)
  for form in _NEAREST:
    words = tuple(form.split())
    if tokens[i : i + len(words)] == words:
      yield "nearest", i + len(words)


def _with_article(tokens: Tokens, i: int) -> Iterator[tuple]:
  if i + 1 < len(tokens) and tokens[i] == article(tokens[i + 1]):
    yield from _description(tokens, i + 1, False)


def _shape_claim(tokens: Tokens, i: int) -> Iterator[tuple]:
  for description, j in _with_article(tokens, i):
    if set(description.given()) == {"shape"} and j == i + 2:
      yield ("shape", description.shape), j


def _one_of(values) -> callable:
  def match(tokens: Tokens, i: int) -> Iterator[tuple]:
    if i < len(tokens) and tokens[i] in values:
      yield tokens[i], i + 1

  return match


def _value(tokens: Tokens, i: int) -> Iterator[tuple]:
  if i < len(tokens) and tokens[i] in _ADJECTIVES:
    yield (_ADJECTIVES[tokens[i]], tokens[i]), i + 1


_SLOTS = {
  "{NP}": _phrase,
  "{NP2}": _phrase,
  "{D}": _with_article,
  "{DB}": lambda tokens, i: _description(tokens, i, False),
  "{DS}": lambda tokens, i: _description(tokens, i, True),
  "{DS2}": lambda tokens, i: _description(tokens, i, True),
  "{A}": _one_of(tuple(VALUES)),
  "{V}": _value,
  "{AV}": _shape_claim,
  "{R}": _relation,
  "{DIR}": _one_of(DIRECTIONS),
  "{PIC}": _one_of(PICTURE),
}


def _by_first_word(forms) -> dict[str, list[Template]]:
  table = collections.defaultdict(list)
  for template in forms:
    first = template.words[0]
    table["{" if first.startswith("{") else first].append(template)
  table["{"] = table.get("{", [])
  return dict(table)


_TABLES = {
  "question": _by_first_word(templates.TEMPLATES),
  "ungrounded": _by_first_word(templates.UNGROUNDED),
  "subjective": _by_first_word(templates.SUBJECTIVE),
}


def _program(template: Template, found: dict) -> Program:
  fields = dict(template.fixed)
  names = {"{NP}": "target", "{NP2}": "other", "{A}": "attribute", "{R}": "relation"}
  names |= {"{D}": "described", "{DB}": "described", "{DS}": "described"}
  names |= {"{DS2}": "described_other", "{DIR}": "value"}
  for slot, value in found.items():
    if slot in names:
      fields[names[slot]] = value
    elif slot in ("{V}", "{AV}"):
      fields["attribute"], fields["value"] = value
  return Program(template.family, **fields)


@dataclasses.dataclass(frozen=True)
class Reference:
  """A phrase of a question; `start` and `end` index its words (end exclusive)."""

  start: int
  end: int
  meaning: NounPhrase | Description


def references(text: str) -> list[Reference]:
  """The plain noun phrases and described sets in a text, in order.

  Word indices are those of `text.split()`. A phrase with a relation gives one
  reference for its head and one for its anchor.
  """
  tokens = normalise(text) or ()
  found: list[Reference] = []
  i = 0
  while i < len(tokens):
    plain = [(m, j) for m, j in _phrase(tokens, i) if m.anchor is None]
    sets = [*_description(tokens, i, False), *_description(tokens, i, True)]
    match = (plain or sets or [None])[0]
    if match is None or match[1] <= i:
      i += 1
      continue
    found.append(Reference(i, match[1], match[0]))
    i = match[1]
  return found


def article(word: str) -> str:
  return "an" if word[0] in "aeiou" else "a"


def realise(
  program: Program, rng: random.Random, lead_share: float = 0.12, plainest: bool = False
) -> str:
  """Words a program: one of its surface forms, by weight, with a rare lead-in.

  `plainest` takes the commonest form with no lead-in.

  Raises:
    ValueError: no surface form fits the program.
  """
  forms = [t for t in templates.TEMPLATES if _fits(t, program)]
  if not forms:
    raise ValueError(f"no surface form for {program}")
  if plainest:
    template = max(forms, key=lambda t: t.weight)
    return sentence(fill(template, program, rng), rng, 0.0)
  template = rng.choices(forms, [t.weight for t in forms])[0]
  return sentence(fill(template, program, rng), rng, lead_share)


def sentence(words: str, rng: random.Random, lead_share: float) -> str:
  """Adds a lead-in now and then, a capital and a question mark."""
  if rng.random() < lead_share:
    lead = rng.choices(LEADS, templates.LEAD_WEIGHTS)[0]
    words = f"{lead.replace('{PIC}', rng.choice(PICTURE))} {words}"
  return f"{words[0].upper()}{words[1:]}?"


def _fits(template: Template, p: Program) -> bool:
  if template.family != p.family:
    return False
  slots = template.slots
  claim = "{V}" in slots or "{AV}" in slots
  if claim and ("{AV}" in slots) != (p.attribute == "shape"):
    return False
  fixed = dict(template.fixed)
  if "attribute" in fixed and fixed["attribute"] != p.attribute:
    return False
  return (
    ("{NP2}" in slots) == (p.other is not None)
    and ("{R}" in slots) == (p.relation is not None)
    and ("{A}" in slots or bool(fixed) or claim) == (p.attribute is not None)
  )


def fill(template: Template, p: Program, rng: random.Random) -> str:
  """Puts a program's parts into a form (lower-case but for letters, no mark)."""

  def word(slot: str) -> str:
    match slot:
      case "{NP}":
        return noun_phrase(p.target, rng)
      case "{NP2}":
        return noun_phrase(p.other, rng)
      case "{D}":
        text = describe(p.described, rng, False)
        return f"{article(text)} {text}"
      case "{DB}" | "{DS}":
        return describe(p.described, rng, slot == "{DS}")
      case "{DS2}":
        return describe(p.described_other, rng, True)
      case "{A}":
        return p.attribute
      case "{AV}":
        return f"{article(p.value)} {p.value}"
      case "{V}" | "{DIR}":
        return p.value
      case "{R}":
        return _weighted(_RELATIONS[p.relation], rng)
      case "{PIC}":
        return rng.choice(PICTURE)
      case literal:
        return literal

  return " ".join(word(w) for w in template.words)


def _weighted(forms: tuple[str, ...], rng: random.Random) -> str:
  return forms[0] if len(forms) == 1 or rng.random() < 0.7 else rng.choice(forms[1:])


def describe(d: Description, rng: random.Random, plural: bool) -> str:
  """ "large red circles"; without a shape mostly "objects"."""
  words = [v for v in (d.size, d.color, d.pattern) if v is not None]
  noun = d.shape or _weighted(("object", "thing", "item"), rng)
  words.append(f"{noun}s" if plural else noun)
  if d.letter is not None:
    words.append(f"with the letter {d.letter}")
  return " ".join(words)


def noun_phrase(phrase: NounPhrase, rng: random.Random) -> str:
  """ "the leftmost red circle", "the square to the left of the star"."""
  words = ["the"] + ([phrase.extreme] if phrase.extreme else [])
  words.append(describe(phrase.description, rng, False))
  if phrase.anchor is not None:
    forms = _NEAREST if phrase.relation == "nearest" else _RELATIONS[phrase.relation]
    words += [_weighted(forms, rng), noun_phrase(phrase.anchor, rng)]
  return " ".join(words)
