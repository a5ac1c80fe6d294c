"""Finds what one vision-language model gets wrong on one set of images."""

__version__ = "0.1.0"
