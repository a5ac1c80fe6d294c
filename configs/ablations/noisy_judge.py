"""Question: what survives a training judge that errs one time in five?"""

from configs.ablations import paper


def get_config():
  c = paper.get_config()
  c.methods = ("grpo",)
  c.roles.verifier = "oracle://?se=0.8&sp=0.8&by=difficulty&seed=0"
  return c
