"""The axis legend of the whole project, and the logical axes of every parameter.

The legend, used in shapes everywhere:

  B images · G responses per image · K questions per response · P prompt tokens ·
  T completion tokens · S keys · D width · H heads · V vocabulary

and, inside the model only: L layers · KV key/value heads · h width of a head ·
N patches of all images · M visual tokens of all images (N / 4) · I images ·
F width of a visual token: D, and D more for each layer that deepstack adds to.

A parameter's logical axes say what its dimensions are; `fmd_jax.sharding` has the table
of which of them a mesh splits. They are looked up by name, so that a parameter carries
no mesh.
"""

import contextlib
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from fmd_jax import sharding
from fmd_jax.models.config import ModelConfig

# What a shape is written of: JAX computes with NumPy's arrays too.
Array = jax.Array | np.ndarray

LAYERS = "layers"
EMBED = "embed"
HEADS = "heads"
KV_HEADS = "kv_heads"
MLP = "mlp"
VOCAB = "vocab"
HEAD = "head"
PATCH = "patch"
POSITION = "position"
DEEPSTACK = "deepstack"
RANK = "rank"
VISION_EMBED = "vision_embed"
VISION_HEADS = "vision_heads"
VISION_QKV = "vision_qkv"  # three times the heads, in one kernel: never cut
VISION_MLP = "vision_mlp"
MERGED = "merged"
MERGED_MLP = "merged_mlp"

_KERNELS = {
  "language_model.layers.self_attn.q_proj": (LAYERS, EMBED, HEADS),
  "language_model.layers.self_attn.k_proj": (LAYERS, EMBED, KV_HEADS),
  "language_model.layers.self_attn.v_proj": (LAYERS, EMBED, KV_HEADS),
  "language_model.layers.self_attn.o_proj": (LAYERS, HEADS, EMBED),
  "language_model.layers.mlp.gate_proj": (LAYERS, EMBED, MLP),
  "language_model.layers.mlp.up_proj": (LAYERS, EMBED, MLP),
  "language_model.layers.mlp.down_proj": (LAYERS, MLP, EMBED),
  "lm_head": (EMBED, VOCAB),
  "visual.patch_embed": (PATCH, VISION_EMBED),
  "visual.blocks.attn.qkv": (LAYERS, VISION_EMBED, VISION_QKV),
  "visual.blocks.attn.proj": (LAYERS, VISION_HEADS, VISION_EMBED),
  "visual.blocks.mlp.gate_proj": (LAYERS, VISION_EMBED, VISION_MLP),
  "visual.blocks.mlp.up_proj": (LAYERS, VISION_EMBED, VISION_MLP),
  "visual.blocks.mlp.down_proj": (LAYERS, VISION_MLP, VISION_EMBED),
  "visual.blocks.mlp.fc1": (LAYERS, VISION_EMBED, VISION_MLP),
  "visual.blocks.mlp.fc2": (LAYERS, VISION_MLP, VISION_EMBED),
  "visual.merger.fc1": (MERGED, MERGED_MLP),
  "visual.merger.fc2": (MERGED_MLP, EMBED),
  "visual.deepstack_merger_list.fc1": (DEEPSTACK, MERGED, MERGED_MLP),
  "visual.deepstack_merger_list.fc2": (DEEPSTACK, MERGED_MLP, EMBED),
}
_SCALES = {
  "language_model.layers.input_layernorm": (LAYERS, EMBED),
  "language_model.layers.post_attention_layernorm": (LAYERS, EMBED),
  "language_model.layers.self_attn.q_norm": (LAYERS, HEAD),
  "language_model.layers.self_attn.k_norm": (LAYERS, HEAD),
  "language_model.norm": (EMBED,),
  "visual.blocks.norm1": (LAYERS, VISION_EMBED),
  "visual.blocks.norm2": (LAYERS, VISION_EMBED),
  "visual.merger.ln_q": (VISION_EMBED,),
  "visual.deepstack_merger_list.ln_q": (DEEPSTACK, MERGED),
}
_EMBEDDINGS = {
  "language_model.embed_tokens": (VOCAB, EMBED),
  "visual.pos_embed": (POSITION, VISION_EMBED),
}


def logical_axes(path: tuple[str, ...]) -> tuple[str, ...]:
  """The name of each dimension of one parameter.

  Args:
    path: of the parameter in the model's state, as `nnx.to_flat_state` gives it.

  Raises:
    KeyError: there is no such parameter.
  """
  module, leaf = ".".join(path[:-1]), path[-1]
  if leaf == "kernel":
    return _KERNELS[module]
  if leaf == "bias" and module in _KERNELS:
    kernel = _KERNELS[module]
    return (*kernel[:-2], kernel[-1])
  if leaf == "lora_a":
    return (*_KERNELS[module][:-1], RANK)
  if leaf == "lora_b":
    return (*_KERNELS[module][:-2], RANK, _KERNELS[module][-1])
  if leaf in ("scale", "bias"):
    return _SCALES[module]
  if leaf == "embedding":
    return _EMBEDDINGS[module]
  raise KeyError(".".join(path))


def param_sharding(
  path: tuple[str, ...],
  shape: tuple[int, ...],
  mesh: Mesh | AbstractMesh,
  config: ModelConfig,
  *,
  gathered: bool = False,
) -> NamedSharding:
  """Where one parameter lies on a mesh; see `fmd_jax.sharding`.

  Args:
    path: of the parameter in the model's state, as `nnx.to_flat_state` gives it.
    shape: of the whole parameter.
    mesh: from `sharding.make_mesh`.
    config: the model's, for the width of a head.
    gathered: not cut across `fsdp`.

  Raises:
    KeyError: there is no such parameter.
  """
  axes = logical_axes(path)
  if gathered or len([a for a in axes if a not in (LAYERS, DEEPSTACK)]) == 1:
    # A vector cut across `fsdp` would cost a gather and save nothing.
    axes = tuple(None if sharding.TABLE.get(a) == sharding.FSDP else a for a in axes)
  units = {
    HEADS: config.text.head_dim,
    KV_HEADS: config.text.head_dim,
    VISION_HEADS: config.vision.hidden_size // config.vision.num_heads,
  }
  return NamedSharding(mesh, sharding.spec(axes, shape, mesh, units))


def shardings(
  tree: Any,
  mesh: Mesh | AbstractMesh,
  config: ModelConfig,
  *,
  gathered: bool = False,
) -> Any:
  """The sharding of each leaf of a tree that holds parameters, or what follows them.

  Args:
    tree: a model's state, an optimiser's, or a tuple of such, abstract or not: a leaf
      lies as the parameter does whose path its own path ends with, and is whole on
      every device where there is none.
    mesh: from `sharding.make_mesh`.
    config: the model's.
    gathered: not cut across `fsdp`.
  """

  def of_leaf(path: tuple, leaf: Any) -> NamedSharding:
    names = tuple(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
    names = names[:-1] if names[-1:] == ("value",) else names
    for start in range(len(names)):
      with contextlib.suppress(KeyError):
        return param_sharding(
          names[start:], leaf.shape, mesh, config, gathered=gathered
        )
    return NamedSharding(mesh, jax.sharding.PartitionSpec())

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


def constrain_params(tree: Any, config: ModelConfig) -> Any:
  """Keeps parameters, or what follows them, where they lie; inside a jitted function.

  Left to the compiler, gradients and optimiser state that start as zeros would be
  whole on every device.

  Args:
    tree: see `shardings`; on a mesh in use, otherwise nothing is done.
    config: the model's.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree
  where = shardings(tree, mesh, config)
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, where)
