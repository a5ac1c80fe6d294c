"""Question: is credit per question better than credit per response?"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.advantage.credit = "question"
  return c
