"""Question: does the lexical term keep the prefixes varied? (Table 4, row 3.)"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.reward.terms = ("semantic", "penalty")
  return c
