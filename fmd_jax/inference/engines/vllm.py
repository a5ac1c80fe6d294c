"""Any vision-language model that vLLM serves, by its AsyncLLM in this process.

vLLM batches requests as they come, whoever sent them, so that a reply may differ in its
last digits from one run to the next; `hf` is the engine whose batches are the caller's.
"""

import asyncio
import functools
import io
import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from fmd_jax.inference.engines import chat, folders
from fmd_jax.inference.protocol import Reply, Request, SpecError, draw_seed

# vLLM's processes do not notice that ours was killed: this one does, and ends them. It
# knows those that were there a second ago, and theirs; psutil's `kill` spares another
# process that has got the number since.
_WATCH = """
import contextlib
import os
import sys
import time

import psutil

parent, known = int(sys.argv[1]), set()
while os.getppid() == parent:
  try:
    known.update(psutil.Process(parent).children(recursive=True))
  except psutil.NoSuchProcess:
    break
  known = {process for process in known if process.is_running()}
  time.sleep(0.5)
for process in known:
  with contextlib.suppress(psutil.NoSuchProcess):
    known = known | set(process.children(recursive=True))
for process in known:
  if process.pid != os.getpid():
    with contextlib.suppress(psutil.NoSuchProcess):
      process.kill()
"""


class VLLMEngine:
  """Answers requests as vLLM finishes them.

  Args:
    folder: a checkpoint folder or a hub id.
    name: the model's name in records.
    dtype: of weights and activations; "auto" is the checkpoint's.
    tensor: devices that share each layer.
    data: copies of the model.
    ray: start the workers by Ray, on several machines.
    length: the longest prompt and reply, in tokens; None is the model's own.
    sequences: the most requests computed at once.
    memory: the share of a device's memory to take.
    kv_mb: megabytes of keys and values instead of that share, for a CPU.
    images: the most images in one prompt.
    eager: no compiled graphs.

  Raises:
    SpecError: vLLM cannot serve it.
  """

  # Its queue is its own: calls need not wait for each other.
  concurrent = True

  def __init__(
    self,
    folder: str,
    *,
    name: str,
    dtype: str = "auto",
    tensor: int = 1,
    data: int = 1,
    ray: bool = False,
    length: int | None = None,
    sequences: int = 256,
    memory: float = 0.9,
    kv_mb: int | None = None,
    images: int = 1,
    eager: bool = False,
  ):
    try:
      import transformers
      from vllm.engine.arg_utils import AsyncEngineArgs
      from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
      raise ImportError(
        "vllm:// needs vLLM: pip install vllm (on a CPU: tests/bench/vllm_env.py)"
      ) from error
    options = {
      "model": folder,
      "dtype": dtype,
      "tensor_parallel_size": tensor,
      "data_parallel_size": data,
      "distributed_executor_backend": "ray" if ray else None,
      "data_parallel_backend": "ray" if ray else "mp",
      "max_model_len": length,
      "max_num_seqs": sequences,
      "gpu_memory_utilization": memory,
      "kv_cache_memory_bytes": kv_mb and kv_mb << 20,
      "limit_mm_per_prompt": {"image": images, "video": 0},
      "enforce_eager": eager,
      # The instruction and the image stand before the question: rows share them.
      "enable_prefix_caching": True,
      "disable_log_stats": True,
      # Without it a model may write spaces for ever.
      "structured_outputs_config": {
        "backend": "xgrammar",
        "disable_any_whitespace": True,
      },
      "seed": 0,
    }
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
    self._thread.start()

    async def start() -> Any:
      return AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    # Before the engine: also a process that is killed while it loads leaves nothing.
    self._watch = _watch()
    try:
      self._engine = self._run(start()).result()
      self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
      config = transformers.AutoConfig.from_pretrained(folder)
      generation = _generation_config(folder, transformers)
    except (OSError, ValueError, RuntimeError) as error:
      raise SpecError(f"{folder} cannot be served by vLLM: {error}") from error
    self._stop_ids = sorted(folders.eos_ids(generation, config, self._tokenizer))
    self._numbers = itertools.count()
    self.name, self.revision = name, folders.revision(folder)
    self.settings = f"vllm {dtype}"

  @property
  def dead(self) -> bool:
    """Whether vLLM's own process has ended; nothing brings it back."""
    return self._engine.errored

  def close(self) -> None:
    """Ends vLLM's processes; those that stay are ended with ours."""
    self._engine.shutdown()
    self._loop.call_soon_threadsafe(self._loop.stop)

  def generate(self, requests: Sequence[Request]) -> list[Reply]:
    replies = dict(self.stream(requests))
    return [replies[index] for index in range(len(requests))]

  def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    """Index and reply of each request, as they finish."""
    results: queue.Queue = queue.Queue()
    tasks = []
    for index, request in enumerate(requests):
      task = self._run(self._reply(request))
      task.add_done_callback(lambda done, i=index: results.put((i, done)))
      tasks.append(task)
    try:
      for _ in tasks:
        index, done = results.get()
        yield index, done.result()
    finally:
      # A caller that left: vLLM frees what is cancelled.
      for task in tasks:
        task.cancel()

  def _run(self, work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, self._loop)

  async def _reply(self, request: Request) -> Reply:
    number = f"r{next(self._numbers)}"
    try:
      prompt, thinks = self._prompt(request)
      # Held to the grammar from its first token, a model could not think first.
      params = self._params(request, schema=None if thinks else request.schema)
      async for out in self._engine.generate(prompt, params, number):
        last = out
    except _of_one_request() as error:
      return Reply("", error=str(error)[:1000] or repr(error))
    best = last.outputs[0]
    return Reply(
      "<think>" * thinks + best.text,
      finish="length" if best.finish_reason == "length" else "stop",
      prompt_tokens=len(last.prompt_token_ids or ()),
      tokens=len(best.token_ids),
    )

  def _prompt(self, request: Request) -> tuple[dict, bool]:
    """Text and pictures, and whether the template opens the reasoning itself."""
    text = self._tokenizer.apply_chat_template(
      chat.without_control_tokens(request.messages),
      add_generation_prompt=True,
      tokenize=False,
    )
    pictures = [_picture(image) for image in request.images]
    prompt = {"prompt": text}
    if pictures:
      prompt["multi_modal_data"] = {"image": pictures}
    return prompt, text.rstrip().endswith("<think>")

  def _params(self, request: Request, schema: Any) -> Any:
    from vllm.sampling_params import (
      RequestOutputKind,
      SamplingParams,
      StructuredOutputsParams,
    )

    return SamplingParams(
      temperature=request.temperature,
      max_tokens=request.max_tokens,
      seed=draw_seed(request) if request.temperature else None,
      stop_token_ids=self._stop_ids,
      output_kind=RequestOutputKind.FINAL_ONLY,
      structured_outputs=schema and StructuredOutputsParams(json=dict(schema)),
    )


# Questions about one picture come one after another.
@functools.lru_cache(maxsize=32)
def _picture(image: bytes) -> Any:
  from PIL import Image

  with Image.open(io.BytesIO(image)) as opened:
    return opened.convert("RGB")


@functools.cache
def _of_one_request() -> tuple[type[Exception], ...]:
  """What concerns one request; all else, a dead engine for one, ends the call."""
  from vllm.v1.engine.exceptions import EngineGenerateError

  known = (OSError, SyntaxError, TypeError, ValueError, EngineGenerateError)
  try:
    from vllm.exceptions import VLLMClientError
  except ImportError:  # versions before it raise ValueError
    return known
  return *known, VLLMClientError


def _watch() -> subprocess.Popen:
  """Starts the process that ends our children when this process ends in any way."""
  # A session of its own: what ends our process group must not end it first.
  return subprocess.Popen(
    [sys.executable, "-c", _WATCH, str(os.getpid())],
    stdin=subprocess.DEVNULL,
    start_new_session=True,
  )


def _generation_config(folder: str, transformers: Any) -> Any:
  try:
    return transformers.GenerationConfig.from_pretrained(folder)
  except OSError:  # a folder need not have one
    return transformers.GenerationConfig()
