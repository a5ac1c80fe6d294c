"""RL+SFT: fine-tuning on what others found, then GRPO from there.

corpus -> fine-tuning -> GRPO; the reference policy is the fine-tuned one.
"""

import dataclasses

from fmd_jax.methods import grpo, sft, training
from fmd_jax.methods.run import Run

NAME = "sft_then_grpo"


def run(run: Run) -> None:
  """Fine-tunes as SFT does (once, if both are run), then trains as GRPO does."""
  sft.fine_tuned(run)
  agent = training.make_agent(
    run.config, str(run.workdir / f"questioner_hf_{sft.NAME}")
  )
  grpo.run(dataclasses.replace(run, agent=agent), NAME)
