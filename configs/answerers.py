"""Question: which failures persist in a smaller answerer, or in one of another family?

    python -m launch.discover --config configs/answerers.py:other --workdir DIR
    python -m launch.sweep --grid configs/grids/answerers.py --workdir DIR

The quickstart, Zero Shot and GRPO: about 5 minutes a row on 2 cores. Each answerer has
a census of its own (fmd_jax/testbed/assets), which its runs are measured by: `base` and
`small` were taught the same eight blind spots, `other` eight others.
"""

from configs import quickstart

ROWS = {
  "base": {},
  "small": {"roles.answerer": "hf://testbed/answerer_small"},
  # Qwen3-VL, the others Qwen2.5-VL; of base's size.
  "other": {"roles.answerer": "hf://testbed/answerer_other"},
  # The base answerer again, asked by the smaller questioner.
  "small_asks": {"roles.questioner": "hf://testbed/questioner_small"},
}


def get_config(row="base"):
  if row not in ROWS:
    raise ValueError(f"no row {row!r}; there are: {', '.join(ROWS)}")
  c = quickstart.get_config()
  c.update_from_flattened_dict(ROWS[row])
  return c
