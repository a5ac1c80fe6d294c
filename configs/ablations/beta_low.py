"""Question: what does a weaker pull to the untrained questioner change?"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.grpo.beta = 0.02
  return c
