"""Question: what does the testbed's tiny answerer get wrong?

    bash launch/quickstart.sh

Zero Shot and GRPO with the paper's eq. 5, on the embedded world: no GPU, no account, no
download. About 5 minutes on 2 cores.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.steps = 120
  c.images_per_step = 12
  c.data.train = "testbed://?split=train&size=2048"
  c.data.heldout = "testbed://?split=heldout&size=120"
  c.sampling.max_new_tokens = 48
  c.answerer.max_tokens = 6
  c.grpo.beta = 0.1  # tiny models drift faster
  # At 2e-4 the failures come faster, and are all of one kind: LOG.md.
  c.optimizer.learning_rate = 4e-5
  return c
