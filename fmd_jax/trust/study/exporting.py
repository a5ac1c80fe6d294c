"""A run -> the folder of a study of it."""

import os
from collections.abc import Sequence

from fmd_jax.trust.study.folder import ANNOTATIONS, Study, write_study
from fmd_jax.trust.study.forms import write_forms
from fmd_jax.trust.study.sampling import draw_slots, judged_slots


def export(
  workdir: str | os.PathLike,
  folder: str | os.PathLike,
  *,
  items: int,
  methods: Sequence[str] = (),
  annotations: int = ANNOTATIONS,
  seed: int = 0,
  images_at: str = "",
) -> Study:
  """Draws a sample of a judged run and writes it for people to label.

  Args:
    workdir: of an evaluated run.
    folder: of the study, which must not be there; see `folder.Study`.
    items: question slots that are drawn; see `draw_slots`.
    methods: only of these; empty for all.
    annotations: how many people label each item.
    seed: of the draw and the order.
    images_at: where Label Studio and items.csv find the pictures; see `write_forms`.

  Raises:
    ValueError: the run is not evaluated, or too few items are asked for.
    FileExistsError: the folder is there.
  """
  drawn = draw_slots(judged_slots(workdir, methods), items, seed)
  return write_study(
    workdir,
    folder,
    drawn,
    annotations=annotations,
    seed=seed,
    also=lambda study, share: write_forms(study, share, images_at),
  )
