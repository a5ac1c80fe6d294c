"""Question: what does the testbed's tiny answerer get wrong?

    bash launch/quickstart.sh

Zero Shot and GRPO on the embedded world: no GPU, no account, no download. About 5
minutes on 2 cores. These are the settings that keep the questions varied there, found
by experiment (fmd_jax/LOG.md); `configs/ablations.py:paper` is eq. 5 as printed.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.steps = 160
  c.images_per_step = 12
  # Few, so that each comes back every third step: it is the memory of an image that
  # the semantic term compares with.
  c.data.train = "testbed://?split=train&size=36"
  c.data.heldout = "testbed://?split=heldout&size=384"
  c.sampling.max_new_tokens = 48
  c.answerer.max_tokens = 6
  c.reward.lexical = "relative"
  # At 1 the questioner learns to be safe before it learns anything else.
  c.reward.lambda_penalty = 0.1
  c.advantage.std_floor = 0.4
  c.advantage.credit = "question"
  c.grpo.beta = 0.02
  c.optimizer.learning_rate = 2.5e-4
  c.optimizer.end_scale = 0.2
  c.sft.learning_rate = 2.5e-4
  c.expert_iteration.learning_rate = 2.5e-4
  # The tiny models know their own prompts only: they can't describe, and a copy of the
  # questioner was taught the second turn.
  c.conme.describe = False
  c.conme.questioner = "hf://testbed/questioner_two_turns"
  return c
