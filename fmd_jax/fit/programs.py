"""The programs of a step, with shapes for arguments.

Axes: see `fmd_jax.update`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmd_jax import models, sharding
from fmd_jax.methods import training
from fmd_jax.models import scoring
from fmd_jax.models.axes import KV_HEADS
from fmd_jax.pixels import smart_resize
from fmd_jax.questioner.inputs import Inputs, make_inputs
from fmd_jax.questioner.sampler import make_sampler
from fmd_jax.update import TrainBatch, policy_params, trains_vision


class Workload(NamedTuple):
  """What a step is made of, beside what the config says.

  Attributes:
    width, height: of every image, in pixels.
    text_tokens: of the prompt, beside the image's.
  """

  width: int = 640
  height: int = 480
  text_tokens: int = 128


def _abstract(tree: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )


def _cut(tree: Any, mesh: Mesh, names: tuple[str | None, ...]) -> Any:
  """Abstract arrays whose first dimensions have these names, the rest none."""

  def one(x: Any) -> jax.ShapeDtypeStruct:
    axes = (*names, *(None,) * (x.ndim - len(names)))
    where = NamedSharding(mesh, sharding.spec(axes, x.shape, mesh))
    dtype = jnp.float32 if x.dtype == np.float64 else x.dtype
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=where)

  return jax.tree.map(one, tree)


def _batch(tree: Any, mesh: Mesh) -> Any:
  """Abstract arrays of a batch, split as `sharding.join` would."""
  return _cut(tree, mesh, (sharding.BATCH,))


def device_bytes(tree: Any) -> int:
  """Bytes of one device's part of abstract arrays."""
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def inputs(
  config: ml_collections.ConfigDict,
  model: models.ModelConfig,
  mesh: Mesh,
  workload: Workload,
) -> Inputs:
  """What `Agent.prepare` gives of a step's images, as shapes.

  Raises:
    ValueError: the images do not split over the mesh.
  """
  batch, parts = config.images_per_step, sharding.batch_shards(mesh)
  if batch % parts:
    raise ValueError(
      f"config.images_per_step ({batch}) does not split into {parts}, the devices of"
      " data x fsdp: change it, or use more of --tensor"
    )
  vision = model.vision
  side = vision.patch_size
  height, width = smart_resize(
    workload.height, workload.width, side * vision.spatial_merge_size, 1, 10**9
  )
  grid = np.tile([[1, height // side, width // side]], (batch, 1))
  visual = int(grid[0].prod()) // vision.merge_unit
  ids = np.zeros((batch, visual + workload.text_tokens), np.int32)
  ids[:, 1 : 1 + visual] = model.image_token_id
  lengths = np.full(batch, ids.shape[1], np.int32)
  # No pixel is needed, but their number; as bytes they are a quarter of the memory.
  pixels = np.broadcast_to(np.int8(0), (int(grid.prod(-1).sum()), vision.patch_width))
  prompt, pixels, plan = make_inputs(ids, lengths, pixels, grid, model, parts)
  pixels = jax.ShapeDtypeStruct(pixels.shape, jnp.float32)
  positions = _cut(prompt.positions, mesh, (None, sharding.BATCH))
  prompt = _batch(prompt._replace(positions=None), mesh)
  return Inputs(
    prompt._replace(positions=positions), _batch(pixels, mesh), _batch(plan, mesh)
  )


def programs(
  config: ml_collections.ConfigDict,
  model: models.ModelConfig,
  mesh: Mesh,
  workload: Workload,
) -> Iterator[tuple[str, int, Callable, tuple]]:
  """A step's programs in the order in which they run.

  The state of the training (masters, optimiser, frozen and reference parameters) is on
  the devices all the time; while responses are sampled, so is a copy of the parameters
  in the type that is computed in.

  Yields:
    A name, the bytes of a device that are taken beside its arguments, the jitted
    function, and its arguments as shapes.
  """
  compute = jnp.dtype(config.precision.compute)
  make = lambda: models.QwenVL(model, rngs=nnx.Rngs(0))  # noqa: E731
  made = nnx.eval_shape(lambda: training.adapted(config, make()))
  graphdef, params = nnx.split(made)
  optimizer = training.make_optimizer(config)
  state = jax.eval_shape(
    lambda p: training.make_state(config, nnx.merge(graphdef, p), optimizer), params
  )
  state = _abstract(state, models.shardings(state, mesh, model))
  cast = jax.eval_shape(lambda s: policy_params(s, compute), state)
  lies = lambda gathered: models.shardings(cast, mesh, model, gathered=gathered)  # noqa: E731
  policy = _abstract(cast, lies(config.sampling.gather))
  key = jax.eval_shape(lambda: jax.random.key(0))
  whole = NamedSharding(mesh, PartitionSpec())
  key = _abstract(key, whole)
  batch = inputs(config, model, mesh, workload)
  allowed = models.sampleable_tokens(model, ())
  resident = device_bytes(state)

  sampler = make_sampler(
    graphdef,
    group_size=config.group_size,
    max_new_tokens=config.sampling.max_new_tokens,
    temperature=config.sampling.temperature,
    allowed_tokens=allowed,
    eos_ids=model.eos_token_ids,
    pad_id=model.pad_token_id,
    scan_layers=True,
  )
  yield "prefill", resident, sampler.prefill, (policy, *batch, key)

  with sharding.use(mesh):
    context, drawn, features = jax.eval_shape(sampler.prefill, policy, *batch, key)
    # The longest cache there is, and no response has ended.
    context, drawn = jax.eval_shape(
      lambda *made: sampler.regroup(*made, *drawn.done.shape, sampler.max_new_tokens),
      context,
      drawn,
    )
  features = _batch(features, mesh)
  lie = lambda stacks: _cut(stacks, mesh, (None, sharding.BATCH, KV_HEADS))  # noqa: E731
  context = _batch(context, mesh)._replace(prefix=lie(context.prefix))
  drawn = _batch(drawn._replace(index=None), mesh)._replace(
    cache=lie(drawn.cache), index=_abstract(drawn.index, whole)
  )
  smaller = _abstract(jax.ShapeDtypeStruct((2,), jnp.int32), whole)
  decoding = (policy, context, drawn, key, smaller)
  # What prefill made of the images waits for the update.
  yield "decode", resident + device_bytes(features), sampler.decode, decoding

  tokens, logprobs, lengths = drawn.responses

  @jax.jit
  def score(policy, features, prompt, tokens, lengths):
    return scoring.completion_logprobs(
      nnx.merge(graphdef, *policy),
      features,
      *prompt,
      tokens,
      lengths,
      allowed,
      temperature=config.sampling.temperature,
    )

  prompt = (
    batch.prompt.input_ids,
    batch.prompt.lengths,
    batch.prompt.positions,
    batch.prompt.next_position,
  )
  policy = _abstract(cast, lies(False))
  yield "scorer", resident, score, (policy, features, prompt, tokens, lengths)

  update = training.make_update(config, graphdef, optimizer, allowed, model)
  frozen_vision = not trains_vision(state)
  train_batch = TrainBatch(
    prompt=batch.prompt,
    completions=tokens,
    lengths=lengths,
    old_logprobs=logprobs,
    advantages=_batch(jax.ShapeDtypeStruct(lengths.shape, jnp.float32), mesh),
    response_mask=_batch(jax.ShapeDtypeStruct(lengths.shape, bool), mesh),
    image_features=features if frozen_vision else None,
    pixel_values=None if frozen_vision else batch.pixel_values,
    plan=None if frozen_vision else batch.plan,
  )
  yield "update", 0, update, (state, train_batch)
