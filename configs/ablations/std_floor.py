"""Question: does it help to keep the scale of small reward differences?"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.advantage.std_floor = 0.3
  return c
