"""A human study of a run: sample -> what annotators see -> what they say -> labels.

judged slots -> drawn slots -> study folder -> the page (screens over assignments over a
journal), Label Studio or a spreadsheet -> labels.csv, which `trust.score` reads
"""

from fmd_jax.trust.study.exporting import export
from fmd_jax.trust.study.folder import ANNOTATIONS, Study, open_study
from fmd_jax.trust.study.importing import Imported, read_labels
from fmd_jax.trust.study.sampling import draw_slots, judged_slots
from fmd_jax.trust.study.server import MIN_SECONDS, TOKEN, StudyServer

__all__ = [
  "ANNOTATIONS",
  "MIN_SECONDS",
  "TOKEN",
  "Imported",
  "Study",
  "StudyServer",
  "draw_slots",
  "export",
  "judged_slots",
  "open_study",
  "read_labels",
]
