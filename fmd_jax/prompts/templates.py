"""The prompt of each role, by name."""

from typing import Any

from fmd_jax.prompts import (
  answerer,
  blind,
  conme,
  judge,
  paraphraser,
  questioner,
  taxonomy,
)

Messages = list[dict[str, Any]]

# The evaluator asks the same of another model: what makes it independent is who
# answers, not how it is asked.
_TEMPLATES = {
  "questioner": (questioner.VERSION, questioner.messages),
  "answerer": (answerer.VERSION, answerer.messages),
  "blind": (blind.VERSION, blind.messages),
  "conme_describe": (conme.VERSION, conme.describe),
  "conme_compare": (conme.VERSION, conme.compare),
  "conme_harder": (conme.VERSION, conme.harder),
  "verifier": (judge.VERSION, judge.messages),
  "evaluator": (judge.VERSION, judge.messages),
  "annotator": ("annotator/1", taxonomy.annotator),
  "namer": ("namer/1", taxonomy.namer),
  "organizer": ("organizer/1", taxonomy.organizer),
  "paraphraser": (paraphraser.VERSION, paraphraser.messages),
}
ROLES = tuple(_TEMPLATES)


def render(role: str, **fields: Any) -> Messages:
  """Renders the prompt of a role.

  Args:
    role: one of `ROLES`.
    **fields: questioner: `k`; answerer and blind: `question`; verifier and evaluator:
      `question` and `answer`; those of ConMe's turns: see `prompts.conme`; annotator
      and paraphraser: `question`; namer: `phrases` and `keywords`; organizer: `skills`.

  Returns:
    Chat messages in the Hugging Face format; an image is `{"type": "image"}`.

  Raises:
    ValueError: the role is unknown.
  """
  if role not in _TEMPLATES:
    raise ValueError(f"unknown role {role!r}; one of {', '.join(ROLES)}")
  return _TEMPLATES[role][1](**fields)


def version(role: str) -> str:
  """The version of a role's template, as records and manifest have it."""
  if role not in _TEMPLATES:
    raise ValueError(f"unknown role {role!r}; one of {', '.join(ROLES)}")
  return _TEMPLATES[role][0]
