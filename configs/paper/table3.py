"""Question: which skills do only some methods find failures in? (Table 3.)

    python -m launch.sweep --grid configs/paper/table3.py --world testbed --workdir DIR
    python -m launch.discover --config configs/paper/table3.py:method=grpo --workdir DIR

The runs are those of Table 1 (same rows, same names): in its workdir nothing is run
again, and only the table is another. Cost: none then, else Table 1's. A row's exclusive
skills are those (of more than 20 questions) that the other kind of method has none of:
RL and RL+SFT against the four baselines. The testbed has 20 skills in all, and its
untrained questioner asks about each: none is exclusive there unless a method loses it.

The paper's numbers:

  exclusive to RL methods: 11 skills, mean failure rate about 50.4 %
    hierarchical reasoning, pattern matching, part comparison, connector connectivity,
    trajectory reasoning, attachment detection, adjacency relations, damage detection,
    continuity detection, anatomical localization, roadway recognition
  missed by both RL methods: 6 skills, about 27.6 %
"""

from configs.paper import table1, worlds

RL = ("grpo", "sft_then_grpo")

get_config = table1.get_config


def get_grid(world="coco"):
  rows = {method: f"method={method}" for method in table1.METHODS}
  columns = ("exclusive_skills", "exclusive_fdr", "skills")
  return worlds.grid("table1", rows, world, {}, columns=columns, group=RL)
