"""Question: what is found in three answerers, and by two questioners, on three seeds?

    python -m launch.sweep --workdir DIR --grid configs/grids/answerers.py --jobs 2

12 runs of about 5 minutes on 2 cores. Every row has its own Zero Shot: ratios are
against it. The paper's answerers are other models: there are no numbers to put beside.
"""

from configs import answerers


def get_grid():
  return {
    "configs": [f"configs/answerers.py:{row}" for row in answerers.ROWS],
    "seeds": [0, 1, 2],
  }
