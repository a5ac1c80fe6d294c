"""Question: do prefixes stay varied if counted by share, not by number?"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.reward.lexical = "relative"
  return c
