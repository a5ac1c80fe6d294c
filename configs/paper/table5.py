"""Question: how many questions should one response ask? (Table 5.)

    python -m launch.discover --config configs/paper/table5.py:4 --workdir DIR
    python -m launch.sweep --grid configs/paper/table5.py --workdir DIR
    python -m launch.sweep --grid configs/paper/table5.py --world testbed --parallel 2 \
      --workdir DIR

RL with K = 1, 2 and 4. All rows ask as many questions: with K = 1 in twice the steps of
K = 2, with 4 in half of them (ours; the paper doesn't say), so that K = 1 is also
updated more often. Cost of a row, coco: the questions of Table 1, 200, 100 and 50
updates. Testbed: three to six minutes on a core, the grid of three seeds 9 runs.

The paper's numbers:

  K   QVR %   FDR %     SD    LD   # skills
  1   83.02   49.41  67.69  0.52         78
  2   83.44   47.58  64.96  0.53        126
  4   79.52   42.79  73.57  0.53        137
"""

from configs.paper import worlds

KS = ("1", "2", "4")
_METRICS = ("qvr", "fdr", "sd", "ld", "skills")
PAPER = {
  "k=1": dict(zip(_METRICS, (0.8302, 0.4941, 67.69, 0.52, 78), strict=True)),
  "k=2": dict(zip(_METRICS, (0.8344, 0.4758, 64.96, 0.53, 126), strict=True)),
  "k=4": dict(zip(_METRICS, (0.7952, 0.4279, 73.57, 0.53, 137), strict=True)),
}


def get_config(row="k=2"):
  chosen = worlds.arguments(row, k=(KS, "2"), world=(worlds.WORLDS, "coco"))
  c = worlds.get_base(chosen["world"])
  c.methods = ("grpo",)
  before, k = c.questions_per_image, int(chosen["k"])
  c.questions_per_image = k
  c.steps = c.steps * before // k
  # As long a response as K questions need.
  c.sampling.max_new_tokens = c.sampling.max_new_tokens * max(k, before) // before
  return c


def get_grid(world="coco"):
  rows = {f"k={k}": f"k={k}" for k in KS}
  return worlds.grid("table5", rows, world, PAPER, reference="k=2")
