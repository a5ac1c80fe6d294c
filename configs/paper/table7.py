"""Question: does it hold for other questioners and answerers? (Table 7.)

    python -m launch.discover --workdir DIR \
      --config configs/paper/table7.py:questioner=7b,answerer=8b,method=grpo
    python -m launch.sweep --grid configs/paper/table7.py --workdir DIR
    python -m launch.sweep --grid configs/paper/table7.py --world testbed --parallel 2 \
      --workdir DIR

Two questioners by three answerers, RL and Expert Iteration; a row is questioner,
answerer, method. In the paper 3b and 7b (asking or answering) are Qwen2.5-VL, 8b is
Qwen3-VL-8B. The testbed has small, base and other (Qwen3-VL, with other blind spots):
its sizes are no scale, `small` is a weaker answerer than `base`. Cost of a row, coco:
as Table 1's, of a 7B where it asks. Testbed: two to four minutes on a core, the grid of
three seeds 36 runs.

The paper's numbers:

  questioner  answerer  method      QVR %   FDR %     SD    LD   # skills
  3b          3b        RL          83.44   47.58  64.96  0.53        126
  3b          7b        RL          81.94   44.55  48.23  0.54        103
  3b          8b        RL          85.11   29.37  59.88  0.44        116
  3b          3b        Exp. Iter.  88.37   38.36  53.42  0.19        103
  3b          7b        Exp. Iter.  87.97   28.73  53.90  0.19        103
  3b          8b        Exp. Iter.  87.64   23.67  51.75  0.18        101
  7b          3b        RL          79.70   51.33  75.16  0.56        121
  7b          7b        RL          81.65   54.25  55.71  0.57         96
  7b          8b        RL          84.55   38.97  54.86  0.48        104
  7b          3b        Exp. Iter.  85.47   40.69  61.95  0.22        101
  7b          7b        Exp. Iter.  84.87   31.46  62.97  0.22        107
  7b          8b        Exp. Iter.  85.39   26.76  61.76  0.22        105
"""

from configs.paper import worlds

METHODS = ("grpo", "expert_iteration")
# Of each world, the first of each is what the others are compared with.
QUESTIONERS = {
  "coco": {
    "3b": "hf:///models/Qwen2.5-VL-3B-Instruct",
    "7b": "hf:///models/Qwen2.5-VL-7B-Instruct",
  },
  "testbed": {
    "base": "hf://testbed/questioner",
    "small": "hf://testbed/questioner_small",
  },
}
ANSWERERS = {
  "coco": {
    "3b": "grpc://qwen2-5-vl-3b:50051/answerer",
    "7b": "grpc://qwen2-5-vl-7b:50051/answerer",
    "8b": "grpc://qwen3-vl-8b:50051/answerer",
  },
  "testbed": {
    "base": "hf://testbed/answerer",
    "small": "hf://testbed/answerer_small",
    "other": "hf://testbed/answerer_other",
  },
}
_METRICS = ("qvr", "fdr", "sd", "ld", "skills")
PAPER = {
  name: dict(zip(_METRICS, numbers, strict=True))
  for name, numbers in {
    "3b-3b-grpo": (0.8344, 0.4758, 64.96, 0.53, 126),
    "3b-7b-grpo": (0.8194, 0.4455, 48.23, 0.54, 103),
    "3b-8b-grpo": (0.8511, 0.2937, 59.88, 0.44, 116),
    "3b-3b-expert_iteration": (0.8837, 0.3836, 53.42, 0.19, 103),
    "3b-7b-expert_iteration": (0.8797, 0.2873, 53.90, 0.19, 103),
    "3b-8b-expert_iteration": (0.8764, 0.2367, 51.75, 0.18, 101),
    "7b-3b-grpo": (0.7970, 0.5133, 75.16, 0.56, 121),
    "7b-7b-grpo": (0.8165, 0.5425, 55.71, 0.57, 96),
    "7b-8b-grpo": (0.8455, 0.3897, 54.86, 0.48, 104),
    "7b-3b-expert_iteration": (0.8547, 0.4069, 61.95, 0.22, 101),
    "7b-7b-expert_iteration": (0.8487, 0.3146, 62.97, 0.22, 107),
    "7b-8b-expert_iteration": (0.8539, 0.2676, 61.76, 0.22, 105),
  }.items()
}


def get_config(row=""):
  world = "testbed" if "world=testbed" in row.split(",") else "coco"
  asking, answering = tuple(QUESTIONERS[world]), tuple(ANSWERERS[world])
  chosen = worlds.arguments(
    row,
    questioner=(asking, asking[0]),
    answerer=(answering, answering[0]),
    method=(METHODS, "grpo"),
    world=(worlds.WORLDS, "coco"),
  )
  c = worlds.get_base(world)
  c.methods = (chosen["method"],)
  c.roles.questioner = QUESTIONERS[world][chosen["questioner"]]
  c.roles.answerer = ANSWERERS[world][chosen["answerer"]]
  return c


def get_grid(world="coco"):
  rows = {
    f"{q}-{a}-{method}": f"questioner={q},answerer={a},method={method}"
    for q in QUESTIONERS[world]
    for method in METHODS
    for a in ANSWERERS[world]
  }
  paper = PAPER if world == "coco" else {}
  return worlds.grid("table7", rows, world, paper)
