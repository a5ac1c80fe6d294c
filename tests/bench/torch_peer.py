"""The peers of `grpo_step.py`: one GRPO update in PyTorch, twice, in its own process.

Runs in the environment that `peers.py` makes: it imports nothing of this repository.
Orders come as JSON objects, one a line, and are answered the same way.

- "torch": the loss written plainly over transformers' model.
- "trl": the loss, reference scores and optimiser of TRL's GRPOTrainer.

Both run every row whole, image included, as these libraries do.
"""

import contextlib
import json
import os
import sys
import time
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)

# Rows of one forward pass; the gradients of the passes are summed. On a CPU no slower
# than all rows at once, and half the memory at G = 16.
ROWS = 8


def _model(folder, frozen_vision):
  model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    folder, dtype=torch.float32
  )
  if frozen_vision:
    # Nothing before the tower has a gradient: it then runs as under no_grad.
    model.model.visual.requires_grad_(False)
  return model.train()


def _processor(folder):
  """Tokenizer and image processor; the library's own wants torchvision for videos."""
  from transformers.processing_utils import ProcessorMixin

  class ImageProcessor(transformers.Qwen2_5_VLProcessor):
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
      ProcessorMixin.__init__(
        self, image_processor, tokenizer, chat_template=chat_template
      )

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  images = transformers.AutoImageProcessor.from_pretrained(folder)
  return ImageProcessor(images, tokenizer, tokenizer.chat_template)


class Batch:
  """The B * G rows, each with its own copy of its image, cut into passes."""

  def __init__(self, path, image_token_id):
    arrays = dict(np.load(path))
    b, group, length = arrays["completions"].shape
    prompts = torch.tensor(arrays["prompt_ids"]).long().repeat_interleave(group, 0)
    completions = torch.tensor(arrays["completions"]).long().reshape(-1, length)
    grids = torch.tensor(arrays["image_grid_thw"])
    patches = torch.tensor(arrays["pixel_values"]).split(grids.prod(-1).tolist())
    old = torch.tensor(arrays["old_logprobs"]).reshape(-1, length)
    advantages = torch.tensor(arrays["advantages"]).reshape(-1)
    self.passes = []
    for start in range(0, b * group, ROWS):
      rows = slice(start, min(start + ROWS, b * group))
      images = [row // group for row in range(rows.start, rows.stop)]
      ids = torch.cat([prompts[rows], completions[rows]], 1)
      self.passes.append(
        {
          "prompt_ids": prompts[rows],
          "prompt_mask": torch.ones_like(prompts[rows]),
          "completion_ids": completions[rows],
          "completion_mask": torch.ones_like(completions[rows]),
          "old_per_token_logps": old[rows],
          "advantages": advantages[rows],
          "pixel_values": torch.cat([patches[i] for i in images]),
          "image_grid_thw": grids[images],
          "num_images": [1] * len(images),
          "mm_token_type_ids": (ids == image_token_id).int(),
        }
      )


IMAGE_INPUTS = ("pixel_values", "image_grid_thw", "mm_token_type_ids")


class Plain:
  """The loss as one would write it."""

  def __init__(self, settings):
    self.settings = settings
    self.model = _model(settings["folder"], settings["frozen_vision"])
    self.reference = _model(settings["reference"], True).requires_grad_(False)
    self.parameters = [p for p in self.model.parameters() if p.requires_grad]
    self.optimizer = torch.optim.AdamW(
      self.parameters,
      lr=settings["learning_rate"],
      betas=(settings["b1"], settings["b2"]),
      eps=settings["eps"],
      weight_decay=0.0,
      fused=True,
    )

  def _logprobs(self, model, inputs):
    tokens = inputs["completion_ids"]
    ids = torch.cat([inputs["prompt_ids"], tokens], 1)
    logits = model(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      logits_to_keep=tokens.shape[1] + 1,
      use_cache=False,
      **{name: inputs[name] for name in IMAGE_INPUTS},
    ).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(-1, tokens[..., None])[..., 0]

  def backward(self, batch):
    """Sums the gradients; returns the loss."""
    clip, total = self.settings["clip"], 0.0
    rows = sum(len(inputs["advantages"]) for inputs in batch.passes)
    for inputs in batch.passes:
      with torch.no_grad():
        reference = self._logprobs(self.reference, inputs)
      new = self._logprobs(self.model, inputs)
      advantages = inputs["advantages"][:, None]
      ratio = torch.exp(new - inputs["old_per_token_logps"])
      surrogate = torch.min(
        ratio * advantages, torch.clamp(ratio, 1 - clip, 1 + clip) * advantages
      )
      apart = reference - new
      kl = torch.exp(apart) - apart - 1
      loss = (self.settings["beta"] * kl - surrogate).mean(1).sum() / rows
      loss.backward()
      total += loss.item()
    return total

  def step(self, batch):
    """One update; returns the loss."""
    loss = self.backward(batch)
    torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["max_grad_norm"])
    self.optimizer.step()
    self.optimizer.zero_grad()
    return loss


class Trl:
  """GRPOTrainer, on inputs as its own sampling would have prepared them."""

  def __init__(self, settings):
    import datasets
    import trl

    args = trl.GRPOConfig(
      output_dir=settings["scratch"],
      use_cpu=True,
      bf16=False,
      report_to=[],
      save_strategy="no",
      gradient_checkpointing=False,
      per_device_train_batch_size=ROWS,
      num_generations=ROWS,
      loss_type="grpo",
      epsilon=settings["clip"],
      beta=settings["beta"],
      temperature=1.0,
      learning_rate=settings["learning_rate"],
      adam_beta1=settings["b1"],
      adam_beta2=settings["b2"],
      adam_epsilon=settings["eps"],
      weight_decay=0.0,
      max_grad_norm=settings["max_grad_norm"],
    )
    self.trainer = trl.GRPOTrainer(
      model=_model(settings["folder"], settings["frozen_vision"]),
      processing_class=_processor(settings["folder"]),
      reward_funcs=lambda completions, **_: [0.0] * len(completions),
      args=args,
      train_dataset=datasets.Dataset.from_list([{"prompt": "unused"}]),
    )
    # The trainer's reference is the folder it starts from; ours has moved away.
    moved = _model(settings["reference"], True).state_dict()
    self.trainer.ref_model.load_state_dict(moved)
    self.trainer.ref_model.eval()
    self.trainer.model.train()
    self.trainer.create_optimizer()

  def step(self, batch):
    """One update; returns the loss."""
    trainer, total = self.trainer, 0.0
    trainer.current_gradient_accumulation_steps = len(batch.passes)
    for inputs in batch.passes:
      ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
      with torch.no_grad():
        reference, *_ = trainer._get_per_token_logps_and_entropies(
          trainer.ref_model,
          ids,
          torch.ones_like(ids),
          inputs["completion_ids"].shape[1],
          batch_size=ROWS,
          num_images=inputs["num_images"],
          **{name: inputs[name] for name in IMAGE_INPUTS},
        )
      loss = trainer.compute_loss(
        trainer.model, {**inputs, "ref_per_token_logps": reference}
      )
      trainer.accelerator.backward(loss)
      total += loss.item()
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(parameters, trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return total


class Server:
  """What the orders call; each returns a JSON object."""

  def load(self, settings):
    """Both peers from one folder, and the number of threads."""
    torch.set_num_threads(settings["threads"])
    self.clock = getattr(time, settings["clock"])
    self.peers = {"torch": Plain(settings), "trl": Trl(settings)}
    plain = self.peers["torch"]
    self.image_token_id = plain.model.config.image_token_id
    return {"trained": sum(p.numel() for p in plain.parameters)}

  def batch(self, path):
    """Reads the batch that the next orders are about."""
    self.rows = Batch(path, self.image_token_id)
    return {}

  def step(self, peer):
    """One update, timed."""
    start = self.clock()
    loss = self.peers[peer].step(self.rows)
    return {"seconds": self.clock() - start, "loss": loss}

  def gradients(self, path):
    """The plain loss and its gradients, under the names of a checkpoint's files."""
    plain = self.peers["torch"]
    loss = plain.backward(self.rows)
    found = {}
    for name, parameter in plain.model.named_parameters():
      if parameter.grad is not None:
        name = name.replace("model.visual.", "visual.")
        found[name.replace("model.language_model.", "model.")] = parameter.grad.numpy()
    np.savez(path, **found)
    plain.optimizer.zero_grad()
    return {"loss": loss}


def main():
  """Serves until its input ends."""
  answers, server = sys.stdout, Server()
  # Libraries may print: what is not an answer goes to the other stream.
  with contextlib.redirect_stdout(sys.stderr):
    for line in sys.stdin:
      order, argument = json.loads(line)
      print(json.dumps(getattr(server, order)(argument)), file=answers, flush=True)


if __name__ == "__main__":
  main()
