"""The testbed's exact judge: it reads the scene out of the image itself."""

import json
from collections.abc import Sequence
from typing import Any

import fmd_jax
from fmd_jax.inference.protocol import Reply, Request


class OracleEngine:
  """Replies in the verdict grammar, from the scene in the PNG's text chunk."""

  def __init__(self):
    # Here and not at the top: only this engine needs the world.
    from fmd_jax.world import oracle, png

    self._judge, self._scene_of = oracle.judge, png.scene_of
    self.name, self.revision = "oracle", fmd_jax.__version__

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    scenes: dict[bytes, Any] = {}
    return [self._reply(request, scenes) for request in requests]

  def _reply(self, request: Request, scenes: dict[bytes, Any]) -> Reply:
    """Judges one request; `scenes` keeps the batch's scenes by image."""
    if not request.images:
      return Reply("", error="the oracle needs an image; the request has none")
    for name in ("question", "answer"):
      if name not in request.fields:
        return Reply("", error=f"the oracle needs the field {name!r}")
    image = request.images[0]
    # One image or question that trips the judge must not take its neighbours along.
    try:
      if image not in scenes:
        scenes[image] = self._scene_of(image)
      if scenes[image] is None:
        return Reply("", error="the image carries no scene; oracle:// cannot judge it")
      verdict = self._judge(
        request.fields["question"], request.fields["answer"], scenes[image]
      )
    except Exception as error:
      return Reply("", error=f"the oracle failed: {error!r}")
    return Reply(json.dumps(verdict, ensure_ascii=False))
