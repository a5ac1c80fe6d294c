"""Question: does RL find more failures of a VLM than the other methods? (Table 1.)

    python -m launch.discover --config configs/paper/table1.py:method=grpo \\
      --workdir DIR --config.data.train=folder:///coco/images?limit=1000 \\
      --config.roles.questioner=hf:///Qwen2.5-VL-3B-Instruct \\
      --config.roles.answerer=grpc://HOST:PORT/answerer \\
      --config.roles.verifier=grpc://HOST:PORT/verifier \\
      --config.roles.evaluator=grpc://HOST:PORT/evaluator

Qwen2.5-VL-3B asks, Qwen2.5-VL-3B answers, 1000 images of COCO. Not run at this size
here: no TPU was at hand, and its cost is not known. That its programs fit a slice is:
`python -m launch.tpu_fit`, see the README. A row per method; only `grpo` so far.

The paper's numbers:

  method         QVR %   FDR %     SD    LD   # skills   skill coverage
  Zero Shot      83.73   32.20  56.27  0.30        109             3.06
  SFT            83.86   37.02  43.80  0.23         99             3.13
  Expert Iter.   88.37   38.36  53.42  0.19        103             3.10
  ConMe          76.63   39.89  61.78  0.30        107             3.15
  RL             83.44   47.58  64.96  0.53        126             3.30
  RL+SFT         86.70   50.73  85.41  0.57        109             3.27
"""

from configs import base

METHODS = ("grpo",)


def get_config(row="method=grpo"):
  method = row.removeprefix("method=")
  if method not in METHODS:
    known = ", ".join(f"method={m}" for m in METHODS)
    raise ValueError(f"no row {row!r}; there are: {known}")
  c = base.get_config()
  c.methods = (method,)
  c.images_per_step = 64
  c.group_size = 8
  c.questions_per_image = 2
  c.sampling.max_new_tokens = 256
  c.precision.compute = "bfloat16"
  c.precision.frozen = "bfloat16"
  # One image and its responses on each of 16 devices at a time.
  c.grpo.microbatch_tokens = 2**16
  return c
