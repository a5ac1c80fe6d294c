"""The questioner: samples responses about images and parses their questions."""

from fmd_jax.questioner.generation import generate

__all__ = ["generate"]
