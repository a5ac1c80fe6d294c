"""The oracle: judges any question and answer about a scene, exactly."""

import dataclasses

from fmd_jax.types import CRITERIA
from fmd_jax.world.answers import answer_type, canonical
from fmd_jax.world.grammar import parse
from fmd_jax.world.programs import Invalid, Program, execute
from fmd_jax.world.scenes import Scene
from fmd_jax.world.skills import cells, skills


@dataclasses.dataclass(frozen=True)
class QuestionVerdict:
  """What the oracle knows about a question.

  Attributes:
    reasons: one line for each criterion.
    answer: the true answer in canonical form; None unless the question is valid.
    skills: hardest first; empty when the text doesn't parse to a program.
    cells: `skill/attribute=value`; empty unless the question is valid.
  """

  grammatical: bool
  atomic: bool
  grounded: bool
  objective: bool
  reasons: dict[str, str]
  answer: str | None = None
  skills: tuple[str, ...] = ()
  cells: tuple[str, ...] = ()
  program: Program | None = None

  @property
  def valid(self) -> bool:
    return all(getattr(self, name) for name in CRITERIA)


_HOLDS = {
  "grammatical": "a well-formed question",
  "atomic": "asks one thing",
  "grounded": "answered by what is visible",
  "objective": "has one answer",
}


def _failing(reasons: dict[str, str], **extra) -> QuestionVerdict:
  passed = {name: name not in reasons for name in CRITERIA}
  return QuestionVerdict(**passed, reasons={**_HOLDS, **reasons}, **extra)


def judge_question(text: str, scene: Scene) -> QuestionVerdict:
  """Judges the four criteria and finds the true answer."""
  reading = parse(text)
  if reading is None:
    unread = "cannot be judged: the text is not a question of this world"
    reasons = dict.fromkeys(CRITERIA, unread)
    return _failing({**reasons, "grammatical": "not a well-formed question"})
  match reading.kind:
    case "compound":
      return _failing({"atomic": "two questions in one"})
    case "ungrounded":
      return _failing({"grounded": "the image does not tell"})
    case "subjective":
      return _failing({"objective": "a matter of opinion"})
  program = reading.program
  needed = skills(program)
  try:
    answer = execute(program, scene)
  except Invalid as bad:
    return _failing({bad.criterion: bad.reason}, skills=needed, program=program)
  return _failing(
    {}, answer=answer, skills=needed, cells=cells(program, scene), program=program
  )


def judge_answer(verdict: QuestionVerdict, text: str) -> bool:
  """Whether a free-text answer says the true answer of a valid question."""
  if verdict.answer is None:
    return False
  return canonical(text, answer_type(verdict.program)) == verdict.answer


def judge(question: str, answer: str, scene: Scene) -> dict[str, dict]:
  """A reply in the judges' grammar: criterion -> {"ok": bool, "why": str}."""
  verdict = judge_question(question, scene)
  reply = {
    name: {"ok": getattr(verdict, name), "why": verdict.reasons[name]}
    for name in CRITERIA
  }
  right = judge_answer(verdict, answer)
  truth = (
    "no true answer" if verdict.answer is None else f"the answer is {verdict.answer}"
  )
  reply["correct"] = {"ok": right, "why": truth}
  return reply
