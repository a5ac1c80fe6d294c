"""The peers of `sample.py`, each in a process of its own: `sample_peer.py hf|vllm`.

Imports nothing of this repository. Orders come as JSON objects, one a line: the first
names the folder and the arrays of the prompt, each later one asks for some responses.
Each is answered with an object; what libraries print goes to stderr.
"""

import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np


def hf(folder, arrays):
  """transformers' generate: the prompt and its image once a response."""
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = transformers.AutoModelForImageTextToText.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  ids = torch.tensor(arrays["input_ids"], dtype=torch.long)
  inputs = {
    "input_ids": ids,
    "attention_mask": torch.ones_like(ids),
    "mm_token_type_ids": (ids == model.config.image_token_id).long(),
    "pixel_values": torch.tensor(arrays["pixel_values"]),
    "image_grid_thw": torch.tensor(arrays["image_grid_thw"], dtype=torch.long),
  }

  def run(group, tokens):
    with torch.no_grad():
      out = model.generate(
        **inputs,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=group,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        use_cache=True,
      )
    return [len(row) - ids.shape[1] for row in out]

  return run, f"transformers {transformers.__version__}, torch {torch.__version__}"


def vllm(folder, arrays):
  """vLLM on this CPU: n responses to one request."""
  os.environ.update(
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    OMP_NUM_THREADS=str(len(os.sched_getaffinity(0))),
    TORCHDYNAMO_DISABLE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
  )
  import PIL.Image
  import vllm

  engine = vllm.LLM(
    model=folder,
    dtype="float32",
    max_model_len=1024,
    max_num_seqs=32,
    enforce_eager=True,
    # Every call encodes its image and runs its prompt, as the others do.
    enable_prefix_caching=False,
    mm_processor_cache_gb=0,
    kv_cache_memory_bytes=1 << 30,
    limit_mm_per_prompt={"image": 1, "video": 0},
    seed=0,
  )
  ids = arrays["input_ids"][0]
  image = ids == int(arrays["image_token_id"])
  # One image token stands for all: vLLM expands it.
  kept = ids[~image | (np.cumsum(image) == 1)]
  request = {
    "prompt_token_ids": kept.tolist(),
    "multi_modal_data": {"image": PIL.Image.fromarray(arrays["picture"])},
  }

  def run(group, tokens):
    params = vllm.SamplingParams(
      n=group, temperature=1.0, min_tokens=tokens, max_tokens=tokens
    )
    answer = engine.generate(request, params, use_tqdm=False)[0]
    if len(answer.prompt_token_ids) != len(ids):
      raise RuntimeError(
        f"{len(answer.prompt_token_ids)} prompt tokens, not {len(ids)}"
      )
    return [len(output.token_ids) for output in answer.outputs]

  return run, f"vllm-cpu {vllm.__version__}"


def main():
  answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
  os.dup2(2, 1)  # libraries print to the file itself

  def answer(**content):
    print(json.dumps(content), file=answers, flush=True)

  order = json.loads(sys.stdin.readline())
  make = {"hf": hf, "vllm": vllm}[sys.argv[1]]
  run, version = make(order["folder"], dict(np.load(order["arrays"])))
  answer(version=version)
  for line in sys.stdin:
    order = json.loads(line)
    start = time.perf_counter()
    lengths = run(order["group"], order["tokens"])
    answer(seconds=time.perf_counter() - start, lengths=lengths)


if __name__ == "__main__":
  main()
