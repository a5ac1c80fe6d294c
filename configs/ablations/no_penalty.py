"""Question: does the penalty keep questions valid? (Table 4, row 1.)"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.reward.terms = ("semantic", "lexical")
  return c
