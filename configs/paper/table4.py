"""Question: what does each part of the reward do? (Table 4.)

    python -m launch.discover --config configs/paper/table4.py:no_lexical --workdir DIR
    python -m launch.sweep --grid configs/paper/table4.py --workdir DIR
    python -m launch.sweep --grid configs/paper/table4.py --world testbed --parallel 2 \
      --workdir DIR

Rows are named after what is left out of `reward.terms`; `zero_shot` is there to be
compared with. Cost of a row, coco: as Table 1's. Testbed: three to four minutes on a
core, the grid of three seeds 15 runs. `configs/grids/rewards.py` has more rows there.

The paper's numbers (the column it calls SC is the number of skills):

  row            QVR %   FDR %     SD    LD   # skills
  no_penalty     75.82   47.47  63.25  0.56        123
  no_diversity   89.67   66.70  59.29  0.16        108
  no_lexical     87.18   56.54  68.48  0.19        118
  full           83.44   47.58  64.96  0.53        126
"""

from configs.paper import worlds

ROWS = {
  "zero_shot": ("semantic", "lexical", "penalty"),
  "no_penalty": ("semantic", "lexical"),
  "no_diversity": ("penalty",),
  "no_lexical": ("semantic", "penalty"),
  "full": ("semantic", "lexical", "penalty"),
}
_METRICS = ("qvr", "fdr", "sd", "ld", "skills")
PAPER = {
  name: dict(zip(_METRICS, numbers, strict=True))
  for name, numbers in {
    "zero_shot": (0.8373, 0.3220, 56.27, 0.30, 109),
    "no_penalty": (0.7582, 0.4747, 63.25, 0.56, 123),
    "no_diversity": (0.8967, 0.6670, 59.29, 0.16, 108),
    "no_lexical": (0.8718, 0.5654, 68.48, 0.19, 118),
    "full": (0.8344, 0.4758, 64.96, 0.53, 126),
  }.items()
}


def get_config(row="full"):
  chosen = worlds.arguments(
    row, reward=(tuple(ROWS), "full"), world=(worlds.WORLDS, "coco")
  )
  c = worlds.get_base(chosen["world"])
  c.methods = ("zero_shot",) if chosen["reward"] == "zero_shot" else ("grpo",)
  c.reward.terms = ROWS[chosen["reward"]]
  return c


def get_grid(world="coco"):
  rows = {name: f"reward={name}" for name in ROWS}
  return worlds.grid("table4", rows, world, PAPER, reference="full")
