"""Where images come from: sources named by a spec, and the batches of a run."""

from fmd_jax.data.batches import batches
from fmd_jax.data.corpora import Corpus, Origin, open_corpus
from fmd_jax.data.folder import Folder
from fmd_jax.data.sources import Skipped, Source
from fmd_jax.data.testbed import Testbed
from fmd_jax.data.workers import Workers

__all__ = [
  "Corpus",
  "Origin",
  "Skipped",
  "Source",
  "Workers",
  "batches",
  "open",
  "open_corpus",
]


def open(spec: str) -> Source:
  """Opens a source of images.

  Args:
    spec: `testbed://?split=train&size=256&seed=0` for scenes whose truth is known,
      `folder:///photos/holidays?limit=100` for any pictures below a folder.

  Raises:
    ValueError: the spec is not understood, or the source holds no picture.
    FileNotFoundError: the folder does not exist.
  """
  kinds = {"testbed": Testbed, "folder": Folder}
  scheme, mark, rest = spec.partition("://")
  if not mark or scheme not in kinds:
    known = ", ".join(f"{kind}://" for kind in kinds)
    raise ValueError(f"no source of images is named {spec!r}; there are {known}")
  location, _, query = rest.partition("?")
  try:
    return kinds[scheme](location, query)
  except (ValueError, FileNotFoundError) as error:
    raise type(error)(f"{spec}: {error}") from None
