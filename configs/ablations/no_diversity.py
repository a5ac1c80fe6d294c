"""Question: what does the bare hunt for failures settle on? (Table 4, row 2.)"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.reward.terms = ("penalty",)
  return c
