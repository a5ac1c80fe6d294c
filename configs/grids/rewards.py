"""Question: what does each part of the reward do? The rows of `ablations`, three seeds.

    python -m launch.sweep --workdir DIR --grid configs/grids/rewards.py --jobs 2

36 runs of about 4 minutes on a core; Zero Shot, of the `default` runs, is the same for
all rows. The paper's numbers are of Qwen2.5-VL-3B on COCO, these of tiny models on tiny
scenes: the directions can be compared, the sizes can't.
"""

from configs import ablations

# Tables 1 (Zero Shot) and 4.
PAPER = {
  "zero_shot": {"qvr": 0.8373, "fdr": 0.3220, "sd": 56.27, "ld": 0.30},
  "default": {"qvr": 0.8344, "fdr": 0.4758, "sd": 64.96, "ld": 0.53},
  "no_penalty": {"qvr": 0.7582, "fdr": 0.4747, "sd": 63.25, "ld": 0.56},
  "no_diversity": {"qvr": 0.8967, "fdr": 0.6670, "sd": 59.29, "ld": 0.16},
  "no_lexical": {"qvr": 0.8718, "fdr": 0.5654, "sd": 68.48, "ld": 0.19},
}


def get_grid():
  return {
    "configs": [f"configs/ablations.py:{row}" for row in ablations.ROWS],
    "seeds": [0, 1, 2],
    "paper": PAPER,
    "reference": "default",  # the others take a part of it away
  }
