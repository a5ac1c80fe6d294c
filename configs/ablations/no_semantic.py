"""Question: what does the semantic term add to the lexical one?"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.reward.terms = ("lexical", "penalty")
  return c
