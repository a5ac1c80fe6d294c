"""How a text reads, by regular expressions: the front half of the brute force.

Shares no code with fmd_jax.world on purpose; only the words for values are imported.
"""

import re

from fmd_jax.world.scenes import COLORS, DIRECTIONS, LETTERS, PATTERNS, SHAPES, SIZES

_WORDS = {"color": COLORS, "pattern": PATTERNS, "size": SIZES}
KIND = {word: kind for kind, words in _WORDS.items() for word in words}


def _any(words):
  return "(?:" + "|".join(words) + ")"


_ADJ = _any(KIND)
ONE = f"(?:{_ADJ} )*" + _any(("object", "thing", "item", *SHAPES))
LETTER = "(?: with the letter " + _any(w.lower() for w in LETTERS) + ")?"
REL = _any(
  ("to the left of", "left of", "to the right of", "right of", "above", "below")
  + ("under",)
)
NEAR = _any(("nearest to", "closest to"))
_END = f"the (?:{_any(('leftmost', 'rightmost', 'topmost', 'bottommost'))} )?"
# Lazy: words that could belong to either go to the outer question, not the reference.
_NP = f"(?:the {ONE}{LETTER} (?:{REL}|{NEAR}) ){{0,2}}?{_END}{ONE}{LETTER}"
_SLOTS = {
  "NP": f"(?P<x>{_NP})",
  "MP": f"(?P<y>{_NP})",
  "DS": f"(?P<s>{ONE}s{LETTER})",
  "ES": f"(?P<t>{ONE}s{LETTER})",
  "D": f"(?:a (?![aeiou])|an (?=[aeiou]))(?P<s>{ONE}{LETTER})",
  "ANY": f"any (?P<s>{ONE}{LETTER})",
  "A": "(?P<a>color|shape|size|pattern)",
  "V": f"(?P<v>{_ADJ})",
  "AV": f"(?:a (?![aeiou])|an (?=[aeiou]))(?P<v>{_any(SHAPES)})",
  "R": f"(?P<r>{REL})",
  "DIR": f"(?P<v>{_any(DIRECTIONS)})",
  "PIC": "(?:picture|image|scene)",
}
# Alternatives in brackets are regular expressions.
_FORMS = {
  "attribute": """
    (what|which) A is NP
    (what|which) A does NP have
    (what is|tell me|name|identify|give me) the A of NP
    (can you tell|could you name|do you know|how would you describe) the A of NP
    NP (is what|has which) A
    the A of NP is what
    in (what|which) A is NP drawn
    of (what|which) A is NP
    say what A NP has
    (if|when) you look at NP what A is it
  """,
  "size": """
    how large is NP
    is NP (large or small|small or large)
  """,
  "pattern": """
    how is NP filled
    what fill does NP have
    with what pattern is NP filled
    what kind of pattern does NP have
  """,
  "shape": "what (kind|type|sort) of shape is NP",
  "verify": """
    is NP V
    is NP AV
    (would you say|is it true that|do you think|could it be that) NP is V
    am i right that NP is V
    does NP look V
    does NP look like AV
  """,
  "exist": """
    (is there|can you find|could there be|have you seen|did you notice) D
    (is there|do you see|can you see|does the PIC show) D( R MP)?
    is there ANY
    is D( in the PIC| R MP)
    are there any DS( R MP)?
    are any DS( shown| R MP)
    does this PIC contain D
    does D appear in the PIC
    do any DS appear
    can D be seen
    are DS shown
  """,
  "count": """
    (exactly )?how many DS are there
    what number of DS are there
    (how many|what number of|tell me how many) DS are R MP
    how many DS( do you see| does the PIC show)
    what is the number of DS
    count the DS( R MP)? and what do you get
    the number of DS is what
    (can|could) you count the DS
    (tell me|say) how many DS there are
    if you count the DS what do you get
    there are how many DS
  """,
  "negation": """
    (how many|what number of|tell me how many) DS are not V
    (what is the number of|can you count the) DS that are not V
    (not counting|without|leaving out) V ones how many DS are there
  """,
  "relation": """
    (is|do you see) NP R MP
    (is it true that|would you say|am i right that) NP is R MP
    does NP lie R MP
    can NP be found R MP
  """,
  "same": """
    are NP and MP the same A
    (do|would you say) NP and MP have the same A
    is NP the same A as MP
    does NP have the same A as MP
    do NP and MP share the same A
  """,
  "larger": """
    is NP (larger|bigger) than MP
    is MP smaller than NP
    does NP look larger than MP
    would you say NP is larger than MP
  """,
  "letter": """
    (what|which) (letter|character) is on NP
    what letter does NP show
    which letter does NP carry
    what is written on NP
    NP shows which letter
    what does NP say
    read the letter on NP and what is it
    (can you read|tell me|name) the letter on NP
  """,
  "direction": """
    which way is NP pointing
    which way does NP point
    (what|which|in which) direction does NP point
    (where|toward which side|to which side) does NP point
    NP points in which direction
    tell me where NP points
  """,
  "points": """
    is NP pointing DIR
    does NP point DIR
    would you say NP points DIR
  """,
  "quadrant": """
    where is NP
    (which|what) corner is NP in
    (in|near) which corner is NP
    what part of the PIC is NP in
    which quarter of the PIC is NP in
    in what part of the PIC is NP
    where do you see NP
    where can NP be found
    NP is in which corner
    tell me where NP is
  """,
  "majority": """
    (what|which) A is most common
    what is the most common A
    what A do most objects have
    most objects have what A
    which A appears most often
    the most common A is what
  """,
  "compare": """
    are there more DS than ES
    do you see more DS than ES
    does the PIC show more DS than ES
    are DS more common than ES
    is the number of DS higher than the number of ES
  """,
  "off the image": """
    who made this PIC
    when was this PIC made
    what is the capital of france
    what is two plus two
    what is your name
    how old are you
    what will happen next
    what is outside the PIC
    what color is the sky at night
    how many days are in a week
  """,
  "opinion": """
    which object is the prettiest
    do you like NP
    is NP beautiful
    what is your favorite object
    is this PIC interesting
    why is NP V
    how do you feel about NP
    what does the PIC mean
  """,
}
_LEAD = _any(
  ("so", "now", "here", "please say", "well", "quickly", "look closely", "then")
  + ("at a glance", "okay", "tell me", "in (?:this|the) PIC", "looking at the PIC")
).replace("PIC", _SLOTS["PIC"])


def _compile(form):
  form = form.replace("(", "(?:")
  return re.compile(
    f"(?:{_LEAD} )?"
    + re.sub(r"\b[A-Z]+\b", lambda slot: _SLOTS[slot.group()], form.strip())
  )


_PATTERNS = [
  (family, _compile(line))
  for family, lines in _FORMS.items()
  for line in lines.strip().splitlines()
]


def plain(text):
  """Lower-case words with single spaces; None unless it is one marked question."""
  text = text.strip().lower()
  if text.find("?") != len(text) - 1:
    return None
  text = " ".join(re.sub("[,?]", " ", text).split())
  for word, same in (("colour", "color"), ("big", "large"), ("little", "small")):
    text = re.sub(rf"(?<!\S){word}(?!\S)", same, text)
  return text


def readings(text):
  found = []
  for family, pattern in _PATTERNS:
    match = pattern.fullmatch(text)
    if match:
      parts = {k: v for k, v in match.groupdict().items() if v is not None}
      if all(_speakable(parts[name]) for name in "xyst" if name in parts):
        found.append((family, parts))
  return found


def _speakable(phrase):
  """No two adjectives of one kind before one noun."""
  for piece in re.split(f" (?:{REL}|{NEAR}) ", phrase):
    kinds = [KIND[word] for word in piece.split() if word in KIND]
    if len(kinds) != len(set(kinds)):
      return False
  return True
