"""What each role is told: one versioned template a file, rendered to chat messages.

Texts that another model wrote (questions, answers) are JSON-quoted in a judge's
prompt: they are data there, never instructions. `attacks()` are texts that try to be
more.
"""

import importlib.resources
import json

from fmd_jax.prompts.questioner import response
from fmd_jax.prompts.templates import ROLES, Messages, render, version

__all__ = ["ROLES", "Messages", "attacks", "render", "response", "version"]


def attacks() -> list[dict[str, str]]:
  """Questions and answers that try to steer a judge: name, question, answer."""
  file = importlib.resources.files(__package__) / "attacks.json"
  return json.loads(file.read_text())
