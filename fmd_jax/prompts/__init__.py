"""What each role is told: versioned templates, rendered to chat messages.

Texts that another model wrote (questions, answers) are JSON-quoted in a judge's
prompt: they are data there, never instructions.
"""

from fmd_jax.prompts.templates import ROLES, Messages, render, response, version

__all__ = ["Messages", "ROLES", "render", "response", "version"]
