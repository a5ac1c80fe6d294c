"""One step of a tiny questioner on a mesh, for sharding_test.py: run as a script.

  python -m tests.sharded FOLDER OUT MESH... [--processes N --process I --port P]

A mesh is "data,fsdp,tensor"; "1,1,1" is the first device. Each one's greedy tokens,
loss and gradients go to OUT/MESH.npz.
"""

import argparse
import io
import pathlib

import jax
import numpy as np
import optax
import PIL.Image
from flax import nnx
from jax.experimental import multihost_utils

from fmd_jax import sharding, types
from fmd_jax.questioner.agent import Agent
from fmd_jax.update import TrainBatch, init_state, make_update_fn

B, G, T = 8, 2, 5


def images():
  """Unequal, so that the parts of the batch must be padded to the same shapes."""
  rng, made = np.random.default_rng(0), []
  for i in range(B):
    width, height = ((56, 56), (84, 56), (56, 112), (84, 84))[i % 4]
    file = io.BytesIO()
    pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(file, "PNG")
    made.append(types.ImageExample(str(i), file.getvalue()))
  return made


def step(folder, mesh):
  """Samples greedily and updates; the optimiser's trace is the gradient itself."""
  agent = Agent(
    folder,
    questions=1,
    group_size=G,
    max_new_tokens=T,
    temperature=0.0,
    mesh=mesh,
    gather=True,
  )
  mine = slice(None)
  if jax.process_count() > 1:
    size = B // jax.process_count()
    mine = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
  inputs = agent.prepare(images()[mine])
  samples = agent.sample(nnx.state(agent.model), inputs, jax.random.key(0))
  optimizer = optax.chain(optax.trace(0.0), optax.scale(-1e-3))
  update = make_update_fn(
    agent.graphdef,
    optimizer,
    beta=0.1,
    clip=0.2,
    # A group of images on every device where there are two for each.
    microbatches=2 if mesh is None or sharding.batch_shards(mesh) <= B // 2 else 1,
    temperature=1.0,
    allowed_tokens=agent.allowed_tokens,
    image_token_id=agent.model.config.image_token_id,
  )
  advantages = np.random.default_rng(1).normal(size=(B, G)).astype(np.float32)
  batch = TrainBatch(
    prompt=inputs.prompt,
    completions=samples.tokens,
    lengths=samples.lengths,
    old_logprobs=samples.logprobs,
    advantages=agent.join(advantages[mine]),
    response_mask=agent.join(np.ones((B, G), bool)[mine]),
    pixel_values=inputs.pixel_values,
    plan=inputs.plan,
  )
  with sharding.use(agent.mesh):
    state = init_state(agent.model, optimizer)
    state, metrics = update(state, batch)
  gradients = dict(nnx.to_flat_state(state.opt_state[0].trace))
  params = dict(nnx.to_flat_state(state.params))
  for path, leaf in nnx.to_flat_state(nnx.state(agent.model)):
    # Nothing that is cut may come out whole: not gradients, not new parameters.
    before = leaf[...]
    for after in (params[path][...], gradients[path][...]):
      assert after.sharding.is_equivalent_to(before.sharding, before.ndim), path
  whole = {".".join(path): leaf[...] for path, leaf in gradients.items()}
  whole |= {**metrics, "tokens": samples.tokens, "logprobs": samples.logprobs}
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(whole, tiled=True)
  return jax.device_get(whole)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("folder")
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("meshes", nargs="+")
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--process", type=int, default=0)
  parser.add_argument("--port", type=int)
  args = parser.parse_args()
  if args.processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
      f"127.0.0.1:{args.port}", args.processes, args.process, initialization_timeout=250
    )
  for name in args.meshes:
    sizes = [int(n) for n in name.split(",")]
    found = step(args.folder, sharding.make_mesh(*sizes) if name != "1,1,1" else None)
    if args.process == 0:
      np.savez(args.out / f"{name}.npz", **found)


if __name__ == "__main__":
  main()
