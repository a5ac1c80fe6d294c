"""Question: what does eq. 5 find as printed? The other arms change this one."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.reward.terms = ("semantic", "lexical", "penalty")
  c.reward.lexical = "paper"
  c.reward.lambda_scale = 0.5
  c.reward.lambda_penalty = 1.0
  c.advantage.std_floor = 0.0
  c.advantage.credit = "response"
  return c
