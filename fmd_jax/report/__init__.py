"""The report of a run, one HTML file, and its failures in forms to take away."""

from fmd_jax.report.browser import MAX_FAILURES
from fmd_jax.report.exports import export
from fmd_jax.report.page import build

__all__ = ["MAX_FAILURES", "build", "export"]
