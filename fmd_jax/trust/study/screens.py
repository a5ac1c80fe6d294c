"""What the page shows an annotator next, and what their answers do: JSON in and out.

Nothing here reads the key of a study: no verdict is in reach of the page.
"""

import secrets
from typing import Any

from fmd_jax.trust.study import quiz
from fmd_jax.trust.study.answers import Said, said
from fmd_jax.trust.study.assignments import Assignments, Rater, Refused
from fmd_jax.trust.study.folder import Study
from fmd_jax.trust.study.wording import CRITERIA, FLAGS, INSTRUCTION

Screen = dict[str, Any]
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that looks like another
_CODE = (4, 4)  # groups, letters of each: 79 bits
_DAY = 86_400.0


class Screens:
  """The page's side of a study."""

  def __init__(self, study: Study, assignments: Assignments, min_seconds: float):
    """
    Args:
      study: which is served.
      assignments: of its items.
      min_seconds: an answer given faster is asked about once more.
    """
    self._study, self._assignments = study, assignments
    self._items = {item.item: item for item in study.items}
    self._min_seconds = min_seconds

  def join(self) -> tuple[str, Screen]:
    """A new annotator: their secret code, and the exercise."""
    groups, letters = _CODE
    code = "-".join(
      "".join(secrets.choice(_LETTERS) for _ in range(letters)) for _ in range(groups)
    )
    self._assignments.join(self._study.pseudonym(code))
    return code, self.screen(code)

  def knows(self, code: str) -> bool:
    return self._assignments.rater(self._study.pseudonym(code)) is not None

  def screen(self, code: str) -> Screen:
    """Where an annotator is: welcome, quiz, item, wait or done; "" is a new one."""
    rater = self._study.pseudonym(code) if code else ""
    own = self._assignments.rater(rater) if rater else None
    if own is None:
      return {"screen": "welcome", **self._guide()}
    shown = {**self._guide(), "code": code}
    if not own.passed:
      return shown | self._quiz(own)
    found = self._assignments.next(rater)
    done = len(own.labels)
    shown |= {"done": done, "total": found.total, "again": done > 0}
    if not found.item:
      return shown | {"screen": "wait" if found.later else "done"}
    return shown | {"screen": "item", **self._shown(found.item)}

  def answer_quiz(self, code: str, body: dict[str, Any]) -> Screen:
    """Notes an answer of the exercise and explains it; `next` is where it goes on."""
    rater = self._study.pseudonym(code)
    own = self._assignments.rater(rater)
    asked = {one.name: one for one in quiz.exercise(own.round)}
    one = asked.get(body.get("item"))
    given = _said(body)
    if own.passed or one is None or one.name in own.quiz:
      return {"next": self.screen(code)}
    right = not given.flag and bool(given.valid) == one.valid
    if right and one.valid:
      right = bool(given.correct) == one.correct
    ends, wrong = self._assignments.quiz(
      rater, one.name, right, size=len(asked), mistakes=quiz.MISTAKES
    )
    told = {"right": right, "title": one.title, "why": one.why, "ends": ends}
    told |= {"mistakes": wrong, "of": len(asked)}
    return told | {"next": self.screen(code)}

  def label(self, code: str, body: dict[str, Any]) -> Screen:
    """Keeps a label, and shows what is next.

    Raises:
      Refused: it cannot be taken; says why.
    """
    given = _said(body)
    if (
      given.valid == 1
      and given.correct is None
      or given.valid == 0
      and (not given.criterion)
    ):
      raise Refused("This answer is not complete.")
    try:
      seconds = round(min(max(float(body["seconds"]), 0.0), _DAY), 2)
    except (KeyError, TypeError, ValueError):
      raise Refused("This answer came without its time.") from None
    rater = self._study.pseudonym(code)
    self._assignments.label(rater, str(body.get("item")), given, seconds)
    return self.screen(code)

  def before(self, code: str, body: dict[str, Any]) -> Screen:
    """The annotator's last answer before the item in `body`, to be corrected."""
    rater = self._study.pseudonym(code)
    event = self._assignments.before(rater, str(body.get("item")))
    if event is None:
      return self.screen(code)
    own = self._assignments.rater(rater)
    place = list(own.labels).index(event["item"])
    given = {name: event[name] for name in ("valid", "criterion", "correct", "flag")}
    return {
      **self._guide(),
      "code": code,
      "screen": "item",
      **self._shown(event["item"]),
      "given": given | {"comment": event["comment"]},
      "done": len(own.labels),
      "total": self._assignments.next(rater).total,
      "again": place > 0,
    }

  def _shown(self, name: str) -> Screen:
    item = self._items[name]
    return {
      "item": item.item,
      "image": f"images/{item.image}",
      "question": item.question,
      "answer": item.answer,
    }

  def _quiz(self, own: Rater) -> Screen:
    asked = quiz.exercise(own.round)
    one = next(one for one in asked if one.name not in own.quiz)
    return {
      "screen": "quiz",
      "item": one.name,
      "image": f"examples/{one.name}.jpg",
      "question": one.question,
      "answer": one.answer,
      "done": len(own.quiz),
      "total": len(asked),
      "round": own.round,
      "again": False,
    }

  def _guide(self) -> Screen:
    return {
      "instruction": INSTRUCTION,
      "criteria": [
        {"name": name, "title": rule.title, "text": rule.text}
        for name, rule in CRITERIA.items()
      ],
      "flags": [{"name": name, "title": text} for name, text in FLAGS.items()],
      "min_seconds": self._min_seconds,
      "items": len(self._items),
      "exercise": len(quiz.exercise(0)),
      "mistakes_allowed": quiz.MISTAKES,
      "examples": [
        {
          "image": f"examples/{one.name}.jpg",
          "question": one.question,
          "answer": one.answer if one.valid else "",
          "title": one.title,
          "valid": one.valid,
          "why": one.why,
        }
        for one in quiz.examples()
      ],
    }


def _said(body: dict[str, Any]) -> Said:
  try:
    given = said(body)
  except ValueError as error:
    raise Refused(f"This answer cannot be read: {error}.") from None
  if given is None:
    raise Refused("This answer says nothing.")
  return given
