"""Surface forms: every way in which this world can ask a question.

One table serves both directions: `grammar.parse` matches it, `grammar.realise` fills
it. Within a family the first forms are the common ones; weights fall off like Zipf's
law, and so do those of the lead-ins.

Slots: {NP} {NP2} references · {D} "a red circle" · {DB} "red circle" · {DS} {DS2}
"red circles" · {A} attribute · {V} a colour, pattern or size · {AV} "a circle" ·
{R} relation · {DIR} direction · {PIC} picture.
"""

import dataclasses

ZIPF = 1.3


@dataclasses.dataclass(frozen=True)
class Template:
  """One surface form; `fixed` are program fields that its words imply."""

  family: str
  words: tuple[str, ...]
  weight: float
  fixed: tuple[tuple[str, str], ...] = ()

  @property
  def slots(self) -> frozenset[str]:
    return frozenset(w for w in self.words if w.startswith("{"))


_FORMS = {
  "attribute": """
    what {A} is {NP}
    what is the {A} of {NP}
    which {A} is {NP}
    {NP} is what {A}
    what {A} does {NP} have
    tell me the {A} of {NP}
    which {A} does {NP} have
    the {A} of {NP} is what
    name the {A} of {NP}
    can you tell the {A} of {NP}
    could you name the {A} of {NP}
    {NP} has which {A}
    do you know the {A} of {NP}
    in what {A} is {NP} drawn
    in which {A} is {NP} drawn
    identify the {A} of {NP}
    say what {A} {NP} has
    of what {A} is {NP}
    of which {A} is {NP}
    how would you describe the {A} of {NP}
    give me the {A} of {NP}
    if you look at {NP} what {A} is it
    when you look at {NP} what {A} is it
  """,
  "attribute size": """
    how big is {NP}
    how large is {NP}
    is {NP} large or small
    is {NP} small or large
  """,
  "attribute pattern": """
    how is {NP} filled
    what fill does {NP} have
    with what pattern is {NP} filled
    what kind of pattern does {NP} have
  """,
  "attribute shape": """
    what kind of shape is {NP}
    what type of shape is {NP}
    what sort of shape is {NP}
  """,
  "verify": """
    is {NP} {V}
    is {NP} {AV}
    does {NP} look {V}
    would you say {NP} is {V}
    is it true that {NP} is {V}
    do you think {NP} is {V}
    does {NP} look like {AV}
    could it be that {NP} is {V}
    am i right that {NP} is {V}
  """,
  "exist": """
    is there {D}
    do you see {D}
    are there any {DS}
    does the {PIC} show {D}
    can you see {D}
    is there any {DB}
    is {D} in the {PIC}
    are any {DS} shown
    does this {PIC} contain {D}
    can you find {D}
    does {D} appear in the {PIC}
    do any {DS} appear
    can {D} be seen
    have you seen {D}
    did you notice {D}
    could there be {D}
    are {DS} shown
  """,
  "exist relation": """
    is there {D} {R} {NP2}
    do you see {D} {R} {NP2}
    are there any {DS} {R} {NP2}
    can you see {D} {R} {NP2}
    does the {PIC} show {D} {R} {NP2}
    is {D} {R} {NP2}
    are any {DS} {R} {NP2}
  """,
  "count": """
    how many {DS} are there
    how many {DS} do you see
    what number of {DS} are there
    what is the number of {DS}
    how many {DS} does the {PIC} show
    count the {DS} and what do you get
    the number of {DS} is what
    can you count the {DS}
    tell me how many {DS} there are
    say how many {DS} there are
    could you count the {DS}
    exactly how many {DS} are there
    if you count the {DS} what do you get
    there are how many {DS}
  """,
  "count relation": """
    how many {DS} are {R} {NP2}
    what number of {DS} are {R} {NP2}
    tell me how many {DS} are {R} {NP2}
    count the {DS} {R} {NP2} and what do you get
  """,
  "negation": """
    how many {DS} are not {V}
    what number of {DS} are not {V}
    what is the number of {DS} that are not {V}
    tell me how many {DS} are not {V}
    can you count the {DS} that are not {V}
    not counting {V} ones how many {DS} are there
    without {V} ones how many {DS} are there
    leaving out {V} ones how many {DS} are there
  """,
  "relation": """
    is {NP} {R} {NP2}
    does {NP} lie {R} {NP2}
    is it true that {NP} is {R} {NP2}
    do you see {NP} {R} {NP2}
    would you say {NP} is {R} {NP2}
    am i right that {NP} is {R} {NP2}
    can {NP} be found {R} {NP2}
  """,
  "same": """
    are {NP} and {NP2} the same {A}
    do {NP} and {NP2} have the same {A}
    is {NP} the same {A} as {NP2}
    does {NP} have the same {A} as {NP2}
    do {NP} and {NP2} share the same {A}
    would you say {NP} and {NP2} have the same {A}
  """,
  "larger": """
    is {NP} larger than {NP2}
    is {NP} bigger than {NP2}
    is {NP2} smaller than {NP}
    does {NP} look larger than {NP2}
    would you say {NP} is larger than {NP2}
  """,
  "ocr": """
    what letter is on {NP}
    which letter is on {NP}
    what letter does {NP} show
    what is written on {NP}
    {NP} shows which letter
    what does {NP} say
    read the letter on {NP} and what is it
    can you read the letter on {NP}
    tell me the letter on {NP}
    name the letter on {NP}
    which letter does {NP} carry
    what character is on {NP}
    which character is on {NP}
  """,
  "orientation": """
    which way does {NP} point
    what direction does {NP} point
    where does {NP} point
    which direction does {NP} point
    in which direction does {NP} point
    {NP} points in which direction
    which way is {NP} pointing
    tell me where {NP} points
    toward which side does {NP} point
    to which side does {NP} point
  """,
  "points": """
    is {NP} pointing {DIR}
    does {NP} point {DIR}
    would you say {NP} points {DIR}
  """,
  "quadrant": """
    where is {NP}
    which corner is {NP} in
    in which corner is {NP}
    what part of the {PIC} is {NP} in
    where do you see {NP}
    {NP} is in which corner
    where can {NP} be found
    what corner is {NP} in
    which quarter of the {PIC} is {NP} in
    in what part of the {PIC} is {NP}
    near which corner is {NP}
    tell me where {NP} is
  """,
  "majority": """
    what {A} is most common
    which {A} is most common
    what is the most common {A}
    what {A} do most objects have
    most objects have what {A}
    which {A} appears most often
    the most common {A} is what
  """,
  "compare": """
    are there more {DS} than {DS2}
    do you see more {DS} than {DS2}
    does the {PIC} show more {DS} than {DS2}
    are {DS} more common than {DS2}
    is the number of {DS} higher than the number of {DS2}
  """,
}

# Asked well, but not about this picture, or with no fact of the matter.
_UNGROUNDED = """
  who made this {PIC}
  when was this {PIC} made
  what is the capital of france
  what is two plus two
  what is your name
  how old are you
  what will happen next
  what is outside the {PIC}
  what color is the sky at night
  how many days are in a week
"""
_SUBJECTIVE = """
  which object is the prettiest
  do you like {NP}
  is {NP} beautiful
  what is your favorite object
  is this {PIC} interesting
  why is {NP} {V}
  how do you feel about {NP}
  what does the {PIC} mean
"""

LEADS = (
  "in this {PIC}",
  "in the {PIC}",
  "looking at the {PIC}",
  "so",
  "now",
  "here",
  "please say",
  "well",
  "quickly",
  "look closely",
  "then",
  "at a glance",
  "okay",
  "tell me",
)
# Openers of one word that may precede any question: the tail of the tail.
_LEAD_ZIPF = 0.8


def _expand(family: str, text: str) -> list[Template]:
  kind, *rest = family.split()
  fixed = (("attribute", rest[0]),) if rest and rest[0] != "relation" else ()
  # A form tied to one attribute is rarer than the first forms that take any.
  offset = 3 if fixed else 0
  lines = [line.split() for line in text.strip().splitlines()]
  return [
    Template(kind, tuple(words), 1 / (rank + 1 + offset) ** ZIPF, fixed)
    for rank, words in enumerate(lines)
  ]


TEMPLATES = tuple(
  template for family, text in _FORMS.items() for template in _expand(family, text)
)
UNGROUNDED = tuple(_expand("ungrounded", _UNGROUNDED))
SUBJECTIVE = tuple(_expand("subjective", _SUBJECTIVE))
LEAD_WEIGHTS = tuple(1 / (rank + 1) ** _LEAD_ZIPF for rank in range(len(LEADS)))
