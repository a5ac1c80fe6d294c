"""Question: does RL find more failures of a VLM than the other methods? (Table 1.)

    python -m launch.discover --config configs/paper/table1.py:method=grpo --workdir DIR
    python -m launch.sweep --grid configs/paper/table1.py --workdir DIR
    python -m launch.sweep --grid configs/paper/table1.py --world testbed \\
      --workdir DIR --parallel 2
    python -m launch.sweep --grid configs/paper/table1.py --world testbed \\
      --workdir DIR --parallel 2 --config.roles.verifier='oracle://?se=0.8&sp=0.8'

A row per method, all asking as many questions, as of one model of 3B by itself
(`configs/paper/worlds.py`). The last command trains with a judge that errs one time in
five; the evaluator stays exact. Cost of a row, coco: 102 400 questions, so as many
calls of the answerer and of the 30B verifier, and 117 760 of the evaluator; not run
here, no TPU was at hand (that it fits a slice: `launch.tpu_fit`). Testbed:
30 720 questions, two to four minutes on a core; the grid of three seeds is 18 runs.

The paper's numbers:

  method         QVR %   FDR %     SD    LD   # skills   skill coverage
  Zero Shot      83.73   32.20  56.27  0.30        109             3.06
  SFT            83.86   37.02  43.80  0.23         99             3.13
  Expert Iter.   88.37   38.36  53.42  0.19        103             3.10
  ConMe          76.63   39.89  61.78  0.30        107             3.15
  RL             83.44   47.58  64.96  0.53        126             3.30
  RL+SFT         86.70   50.73  85.41  0.57        109             3.27
"""

from configs.paper import worlds

METHODS = ("zero_shot", "sft", "expert_iteration", "conme", "grpo", "sft_then_grpo")
_METRICS = ("qvr", "fdr", "sd", "ld", "skills", "skill_coverage")
PAPER = {
  name: dict(zip(_METRICS, numbers, strict=True))
  for name, numbers in {
    "zero_shot": (0.8373, 0.3220, 56.27, 0.30, 109, 3.06),
    "sft": (0.8386, 0.3702, 43.80, 0.23, 99, 3.13),
    "expert_iteration": (0.8837, 0.3836, 53.42, 0.19, 103, 3.10),
    "conme": (0.7663, 0.3989, 61.78, 0.30, 107, 3.15),
    "grpo": (0.8344, 0.4758, 64.96, 0.53, 126, 3.30),
    "sft_then_grpo": (0.8670, 0.5073, 85.41, 0.57, 109, 3.27),
  }.items()
}


def get_config(row="method=grpo"):
  chosen = worlds.arguments(
    row, method=(METHODS, "grpo"), world=(worlds.WORLDS, "coco")
  )
  c = worlds.get_base(chosen["world"])
  c.methods = (chosen["method"],)
  return c


def get_grid(world="coco"):
  rows = {method: f"method={method}" for method in METHODS}
  return worlds.grid("table1", rows, world, PAPER, group=("grpo", "sft_then_grpo"))
