"""An evaluated run on 24 testbed pictures, made by hand, two thirds of it failures."""

import json
import random

from fmd_jax import evaluate, inference, records
from fmd_jax.types import ImageExample
from fmd_jax.world import drawing, png
from fmd_jax.world.grammar import article
from fmd_jax.world.scenes import sample_scene
from tests.records.shards_test import record
from tests.runs import played_config

SCRIPT = """
import zlib
def _fails(request, share):
  text = f"{request.seed}/{request.sample}/{request.fields['question']}"
  return zlib.crc32(text.encode()) % 100 < share
def old(request):
  return "nonsense" if _fails(request, 60) else "yes"
def new(request):
  return "nonsense" if _fails(request, 98) else "yes"
def mute(request):
  raise RuntimeError("down")
"""


def make(folder):
  """Fills a workdir; "yes" is right of each question, and the first one got it."""
  (folder / "script.py").write_text(SCRIPT)
  rng = random.Random(0)
  rows = []
  for i in range(24):
    scene = sample_scene(rng)
    image = ImageExample(f"p{i:02}", png.encode(drawing.render(scene), scene))
    records.write_image(folder, image)
    shapes = {o.shape for o in scene.objects}
    for slot, shape in enumerate(sorted(shapes)[:3]):
      rows.append(
        record(
          0, image.image_id, slot, method="zero_shot",
          question=f"Is there {article(shape)} {shape}?",
          answer="nonsense" if slot else "yes", prefix="is there",
        )
      )  # fmt: skip
  records.write_shard(folder, "zero_shot", "train", 0, rows)
  config = played_config(
    **{
      "roles.answerer": f"scripted://{folder}/script.py:old",
      "methods": ("zero_shot",),
    }
  )
  judge = inference.resolve("oracle://")
  plan = evaluate.make_plan(folder)
  evaluate.evaluate(folder, judge, plan, max_tokens=64, retries=0)
  answerer = inference.identity(inference.resolve(config.roles.answerer))
  (folder / "config.json").write_text(json.dumps(config.to_dict()))
  manifest = {"run_id": "r", "models": {"answerer": answerer}}
  (folder / "manifest.json").write_text(json.dumps(manifest))
  return folder
