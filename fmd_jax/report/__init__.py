"""The report of a run: one HTML file, made from what the workdir holds."""

from fmd_jax.report.page import build

__all__ = ["build"]
