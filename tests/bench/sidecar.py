"""What gRPC costs, and what a sidecar stands: load with images in bounded memory.

    python -m tests.bench.sidecar            # minutes
    python -m tests.bench.sidecar --quick    # 16 clients, 800 requests, 96 of hf://

1. 500 (image, question) requests to the tiny answerer through `hf`, in this process
   and over gRPC, in batches of 32: equal replies, and the time that gRPC adds. Both
   sides take turns, batch by batch; the share is of medians.
2. 64 clients at one time, 10 000 requests with 500 images, to a scripted model behind a
   sidecar whose image store holds a tenth of them: errors, and the peak memory of the
   sidecar's process, half way and at the end.
3. 1 000 malformed, oversized or unauthenticated calls: each ends with the status it
   should have, and the sidecar answers afterwards.
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # run as a script

import numpy as np
from PIL import Image

from fmd_jax import data, inference, prompts
from fmd_jax.inference import Request
from fmd_jax.sidecar import process
from fmd_jax.world import png, questions
from tests.sidecar import abuse

BATCH = 32
SCRIPT = """
import hashlib

def reply(request):
  seen = hashlib.sha256(request.images[0]).hexdigest()[:8]
  return request.fields["question"] + " " + seen
"""


def scene_requests(number: int) -> list[Request]:
  """Questions of the embedded world, five to an image."""
  rng, out = random.Random(0), []
  source = data.open(f"testbed://?split=heldout&size={-(-number // 5)}")
  for place in range(len(source)):
    image = source[place].png
    for _ in range(5):
      question = questions.sample_question(rng, png.scene_of(image)).text
      messages = prompts.render("answerer", question=question)
      out.append(Request(messages, (image,), {"question": question}, max_tokens=6))
  return out[:number]


def overhead(number: int, folder: pathlib.Path) -> dict[str, float]:
  """The time of `hf` in this process and behind gRPC."""
  # One thread each: the two sides then do the same arithmetic on the same cores.
  here = inference.load_engine("hf://testbed/answerer?threads=1")
  requests = scene_requests(number)
  batches = [requests[i : i + BATCH] for i in range(0, len(requests), BATCH)]
  roles = {"answerer": "hf://testbed/answerer?threads=1"}
  seconds = {"here": [], "there": []}
  with process.start(roles, log=folder / "hf.log", threads=1) as sidecar:
    there = inference.resolve(sidecar.spec("answerer"))
    for model in (here, there):
      model.generate(batches[0])
    for place, batch in enumerate(batches):
      sides = [("here", here), ("there", there)]
      replies = {}
      for name, model in sides if place % 2 else sides[::-1]:
        start = time.perf_counter()
        replies[name] = model.generate(batch)
        seconds[name].append(time.perf_counter() - start)
      if replies["here"] != replies["there"]:
        raise RuntimeError(f"batch {place}: replies differ")
  here_s, there_s = (statistics.median(seconds[name]) for name in ("here", "there"))
  return {
    "hf_seconds_per_batch": here_s,
    "grpc_seconds_per_batch": there_s,
    "grpc_overhead": there_s / here_s - 1,
    "hf_requests": len(requests),
  }


def load(clients: int, number: int, folder: pathlib.Path) -> dict[str, float]:
  """Many clients at one time, each with a connection of its own."""
  script = folder / "script.py"
  script.write_text(SCRIPT)
  rng = np.random.default_rng(0)
  pictures = []
  for _ in range(500):
    buffer = io.BytesIO()
    noise = rng.integers(0, 256, (128, 128, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    pictures.append(buffer.getvalue())
  each, errors, peaks = -(-number // clients), 0, []
  roles = {"verifier": f"scripted://{script}:reply"}

  with process.start(
    roles, log=folder / "load.log", threads=1, image_store_mb=2
  ) as sidecar:

    def client(place: int) -> int:
      model = inference.resolve(sidecar.spec("verifier"))
      wrong = 0
      for start in range(place * each, min((place + 1) * each, number), 8):
        # A client keeps to its own pictures for a while, as a step of a run does.
        batch = [
          Request([], (pictures[i // 8 % 500],), {"question": f"q{i}"})
          for i in range(start, min(start + 8, (place + 1) * each, number))
        ]
        for request, reply in zip(batch, model.generate(batch), strict=True):
          wrong += not reply.text.startswith(request.fields["question"] + " ")
      model.close()
      return wrong

    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
      futures = [pool.submit(client, place) for place in range(clients)]
      while not all(future.done() for future in futures):
        peaks.append(_rss_mb(sidecar.pid, "VmRSS"))
        time.sleep(0.2)
      errors = sum(future.result() for future in futures)
    seconds = time.perf_counter() - begun
    peak = _rss_mb(sidecar.pid, "VmHWM")
  half = peaks[: max(len(peaks) // 2, 1)]
  return {
    "clients": clients,
    "requests": number,
    "errors": errors,
    "requests_per_second": number / seconds,
    "peak_rss_mb": peak,
    "first_half_peak_rss_mb": max(half),
  }


def _rss_mb(pid: int, field: str) -> float:
  lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(field))
  return int(line.split()[1]) / 1024


def refused(number: int, folder: pathlib.Path) -> dict[str, float]:
  """Calls that must fail, each in its own way."""
  os.environ[abuse.TOKEN] = "bench"
  try:
    roles = {"judge": "oracle://"}
    with process.start(roles, log=folder / "abuse.log", threads=1) as sidecar:
      wrong = abuse.run(sidecar.address, number, token="bench")
      print("\n".join(wrong))
      return {"abusive_calls": number, "abusive_calls_with_another_status": len(wrong)}
  finally:
    del os.environ[abuse.TOKEN]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="a tenth of it all")
  quick = parser.parse_args().quick
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    result = load(*((16, 800) if quick else (64, 10_000)), folder)
    result |= refused(100 if quick else 1000, folder)
    result |= overhead(96 if quick else 500, folder)
  for name, value in result.items():
    shown = f"{value:.4g}" if isinstance(value, float) else value
    print(f"{name:36} {shown}")
  print(json.dumps(result))
  sys.exit(bool(result["errors"] or result["abusive_calls_with_another_status"]))


if __name__ == "__main__":
  main()
