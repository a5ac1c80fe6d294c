"""Question: what does each part of the reward and of the advantage do? (Table 4.)

    python -m launch.discover --config configs/ablations.py:no_lexical --workdir DIR
    python -m launch.sweep --grid configs/grids/rewards.py --workdir DIR

A row is the quickstart with one thing changed, but `paper`, which is eq. 1 and eq. 5
as printed. About 4 minutes each on a core. `default` asks Zero Shot too.
"""

from configs import quickstart

PAPER = {
  "reward.terms": ("semantic", "lexical", "penalty"),
  "reward.lexical": "paper",
  "advantage.std_floor": 0.0,
  "advantage.credit": "response",
  # The paper prints no lambdas. Divided by the std, the default's .1 makes questions up
  # to 6.5 points more valid than Zero Shot's; this keeps them within 5.
  "reward.lambda_penalty": 0.05,
}
ROWS = {
  "default": {},
  # Table 4: the penalty, then the diversity terms left out.
  "no_penalty": {"reward.terms": ("semantic", "lexical")},
  "no_diversity": {"reward.terms": ("penalty",)},
  "no_lexical": {"reward.terms": ("semantic", "penalty")},
  "no_semantic": {"reward.terms": ("lexical", "penalty")},
  # Our choices, each back to the paper's, then all of them.
  "paper_lexical": {"reward.lexical": "paper"},
  "paper_std": {"advantage.std_floor": 0.0},
  "paper_credit": {"advantage.credit": "response"},
  "paper": PAPER,
  # The pull to the untrained questioner, and a training judge that errs.
  "beta_low": {"grpo.beta": 0.004},
  "beta_high": {"grpo.beta": 0.1},
  "noisy_judge": {"roles.verifier": "oracle://?se=0.8&sp=0.8&seed=0"},
}


def get_config(row="default"):
  if row not in ROWS:
    raise ValueError(f"no row {row!r}; there are: {', '.join(ROWS)}")
  c = quickstart.get_config()
  c.update_from_flattened_dict(ROWS[row])
  if row != "default":
    c.methods = ("grpo",)
  return c
