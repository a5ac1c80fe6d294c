"""The report of a run, one HTML file, and its failures in forms to take away."""

from fmd_jax.report.browser import MAX_FAILURES
from fmd_jax.report.exports import export
from fmd_jax.report.page import build
from fmd_jax.report.replayed import build_replay

__all__ = ["MAX_FAILURES", "build", "build_replay", "export"]
