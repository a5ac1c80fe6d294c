"""Question: how long a prefix should the lexical reward count? (Table 6.)

    python -m launch.discover --config configs/paper/table6.py:3 --workdir DIR
    python -m launch.sweep --grid configs/paper/table6.py --workdir DIR
    python -m launch.sweep --grid configs/paper/table6.py --world testbed --parallel 2 \
      --workdir DIR

RL with prefixes of L = 1 to 4 words in the reward; LD is measured on two words in all
rows. Cost of a row, coco: as Table 1's. Testbed: three to four minutes on a core, the
grid of three seeds 12 runs.

The paper's numbers:

  L   QVR %   FDR %     SD    LD   # skills
  1   87.52   63.98  65.73  0.16        113
  2   83.44   47.58  64.96  0.53        126
  3   84.56   45.62  82.71  0.45        109
  4   86.00   53.82  74.97  0.32        108
"""

from configs.paper import worlds

LENGTHS = ("1", "2", "3", "4")
_METRICS = ("qvr", "fdr", "sd", "ld", "skills")
PAPER = {
  "l=1": dict(zip(_METRICS, (0.8752, 0.6398, 65.73, 0.16, 113), strict=True)),
  "l=2": dict(zip(_METRICS, (0.8344, 0.4758, 64.96, 0.53, 126), strict=True)),
  "l=3": dict(zip(_METRICS, (0.8456, 0.4562, 82.71, 0.45, 109), strict=True)),
  "l=4": dict(zip(_METRICS, (0.8600, 0.5382, 74.97, 0.32, 108), strict=True)),
}


def get_config(row="l=2"):
  chosen = worlds.arguments(row, l=(LENGTHS, "2"), world=(worlds.WORLDS, "coco"))
  c = worlds.get_base(chosen["world"])
  c.methods = ("grpo",)
  c.reward.prefix_length = int(chosen["l"])
  return c


def get_grid(world="coco"):
  rows = {f"l={length}": f"l={length}" for length in LENGTHS}
  return worlds.grid("table6", rows, world, PAPER, reference="l=2")
