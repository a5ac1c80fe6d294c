"""Which skills the questions take: primitives -> topics -> skills -> meta-skills."""

from fmd_jax.taxonomy.build import Models, Settings, build

__all__ = ["Models", "Settings", "build"]
