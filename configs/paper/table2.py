"""Question: does RL fail the model in every skill, or in few? (Table 2: failure rate
per skill.)

    python -m launch.sweep --grid configs/paper/table2.py --world testbed --workdir DIR
    python -m launch.discover --config configs/paper/table2.py:method=grpo --workdir DIR

The runs are those of Table 1 (same rows, same names): in its workdir nothing is run
again, and only the table is another. Cost: none then, else Table 1's.

The paper's numbers:

  mean failure rate of the skills with more than 100 questions, %
  Zero Shot 33.38, SFT 34.72, Expert Iteration 38.54, ConMe 40.36, RL 48.27,
  RL+SFT 48.82
"""

from configs.paper import table1, worlds

PAPER = {
  "zero_shot": {"skill_fdr": 0.3338},
  "sft": {"skill_fdr": 0.3472},
  "expert_iteration": {"skill_fdr": 0.3854},
  "conme": {"skill_fdr": 0.4036},
  "grpo": {"skill_fdr": 0.4827},
  "sft_then_grpo": {"skill_fdr": 0.4882},
}

get_config = table1.get_config


def get_grid(world="coco"):
  rows = {method: f"method={method}" for method in table1.METHODS}
  return worlds.grid(
    "table1", rows, world, PAPER, columns=("skill_fdr", "skills", "skill_coverage")
  )
