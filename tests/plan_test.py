"""The plan of a run: what it says must be what is asked."""

from fmd_jax import plan
from tests.runs import small_config


def line_of(text, first):
  (line,) = [line for line in text.splitlines() if line.split()[:1] == [first]]
  return line.split()[1:]


def test_the_numbers_are_those_of_the_config():
  config = small_config(images_per_step=4, group_size=2, steps=5)
  config.methods = ("zero_shot", "conme", "expert_iteration", "sft_then_grpo")
  config.data.heldout = "testbed://?split=heldout&size=10"
  config.conme.describe = True
  text = plan.describe(config)
  # 5 steps of 4 x 2 x 2; of the 10 unseen images two batches of 4 are asked about.
  asked = 5 * 16 + 2 * 16
  assert line_of(text, "zero_shot") == ["0", *[str(asked)] * 4]
  # Each image is described once by the target, too.
  said = str(asked + 5 * 4 + 8)
  assert line_of(text, "conme") == ["0", str(asked), said, *[str(asked)] * 2]
  assert line_of(text, "expert_iteration")[:3] == ["5", "rounds", str(asked)]
  assert line_of(text, "sft_then_grpo")[:4] == ["2", "epochs", "+", "5"]
  assert line_of(text, "all")[0] == str(4 * asked)
  assert line_of(text, "answerer") == [config.roles.answerer]


def test_a_sample_is_judged():
  config = small_config(images_per_step=4, group_size=2, steps=5)
  config.methods = ("zero_shot",)
  config.data.heldout = "testbed://?split=heldout&size=8"
  config.evaluation.sample = 50
  # Of 80 questions 50, of the 32 about unseen images all.
  assert line_of(plan.describe(config), "zero_shot")[-1] == "82"


def test_what_is_not_known_is_said():
  config = small_config()
  config.data.heldout = "folder:///photographs"
  assert "The unseen images are not counted" in plan.describe(config)
