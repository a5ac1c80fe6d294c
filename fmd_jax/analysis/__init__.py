"""Tables and figures of the paper, and beyond, from records, evaluations, taxonomy.

Tables in, tables out; `write` puts all that a run allows into its `analysis/`.
"""

from fmd_jax.analysis.rows import describe, read
from fmd_jax.analysis.write import FOLDER, write

__all__ = ["FOLDER", "describe", "read", "write"]
