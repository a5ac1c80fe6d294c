"""What the tables of the paper start from: its own world, and the testbed's.

`coco` is the paper's setting as far as it is printed: 1000 images of COCO's training
set, Qwen2.5-VL-3B asks and answers, Qwen3-VL-30B-Thinking judges while training, Gemini
3 Flash afterwards. What the paper leaves out (steps, G, rates) is ours, see
`configs/base.py`. It expects checkpoints below /models, COCO as `tfds build` prepares
it, SFT's sets below /data, and hosts of these names that run `launch.sidecar`; each is
a key, and `--config.key=value` changes it.

`testbed` is the quickstart's: tiny models on tiny scenes, on any laptop.
"""

from configs import base, quickstart

WORLDS = ("coco", "testbed")


def get_base(world):
  if world not in WORLDS:
    raise ValueError(f"no world {world!r}; there are: {', '.join(WORLDS)}")
  return quickstart.get_config() if world == "testbed" else _coco()


def _coco():
  c = base.get_config()
  c.steps = 100  # of 1024 questions
  c.images_per_step = 64
  c.group_size = 8
  c.questions_per_image = 2
  c.sampling.max_new_tokens = 256
  c.data.train = "tfds://coco/2017?split=train&limit=1000&seed=0"
  c.data.heldout = "tfds://coco/2017?split=validation&limit=1000&seed=0"
  c.roles.questioner = "hf:///models/Qwen2.5-VL-3B-Instruct"
  c.roles.answerer = "grpc://qwen2-5-vl-3b:50051/answerer"
  c.roles.verifier = "grpc://qwen3-vl-30b-thinking:50051/verifier"
  c.roles.evaluator = "gemini://gemini-3-flash-preview"
  # Five of the paper's seven sets. The others, vstar:///data/vstar and
  # ocrbench_v2:///data/ocrbench_v2, allow no commercial use, or do not say:
  # they need sft.allow_noncommercial.
  c.sft.corpus = (
    "blink:///data/blink",
    "corecognition:///data/corecognition",
    "mmvp:///data/mmvp",
    "mmmu_pro:///data/mmmu_pro",
    "chartqapro:///data/chartqapro",
  )
  c.precision.compute = "bfloat16"
  c.precision.frozen = "bfloat16"
  # One image and its responses on each of 16 devices at a time.
  c.grpo.microbatch_tokens = 2**16
  return c


def arguments(text, **defaults):
  """`"method=grpo,world=testbed"` as a dict; the first key may go unnamed.

  Args:
    text: what follows the colon in `--config FILE:TEXT`.
    **defaults: key -> (what it can be, which of them it is).
  """
  out = {key: default for key, (_, default) in defaults.items()}
  for part in filter(None, text.split(",")):
    key, mark, value = part.rpartition("=")
    key = key if mark else next(iter(defaults))
    if key not in defaults:
      raise ValueError(f"no argument {key!r}; there are: {', '.join(defaults)}")
    out[key] = value
  for key, (known, _) in defaults.items():
    if out[key] not in known:
      names = ", ".join(f"{key}={name}" for name in known)
      raise ValueError(f"no row {text!r}; there are: {names}")
  return out


def grid(table, rows, world, paper, **more):
  """What `launch.sweep --grid` reads of a table."""
  return {
    # On the testbed three seeds are minutes; at full size one is days.
    "seeds": [0, 1, 2] if world == "testbed" else [0],
    "configs": {
      name: f"configs/paper/{table}.py:{row},world={world}"
      for name, row in rows.items()
    },
    "paper": paper,
    "world": world,
    **more,
  }
