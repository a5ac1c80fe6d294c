"""The axis legend of the whole project, and the logical axes of every parameter.

The legend, used in shapes everywhere:

  B images · G responses per image · K questions per response · P prompt tokens ·
  T completion tokens · S keys · D width · H heads · V vocabulary

and, inside the model only: L layers · KV key/value heads · h width of a head ·
N patches of all images · M visual tokens of all images (N / 4) · I images ·
F width of a visual token: D, and D more for each layer that deepstack adds to.

A parameter's logical axes say what its dimensions are; `fmd_jax.sharding` says which
of them a mesh splits. They are looked up by name, so that a parameter carries no mesh.
"""

import jax
import numpy as np

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
VISION_MLP = "vision_mlp"
MERGED = "merged"

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
  "visual.blocks.attn.qkv": (LAYERS, VISION_EMBED, VISION_HEADS),
  "visual.blocks.attn.proj": (LAYERS, VISION_HEADS, VISION_EMBED),
  "visual.blocks.mlp.gate_proj": (LAYERS, VISION_EMBED, VISION_MLP),
  "visual.blocks.mlp.up_proj": (LAYERS, VISION_EMBED, VISION_MLP),
  "visual.blocks.mlp.down_proj": (LAYERS, VISION_MLP, VISION_EMBED),
  "visual.blocks.mlp.fc1": (LAYERS, VISION_EMBED, VISION_MLP),
  "visual.blocks.mlp.fc2": (LAYERS, VISION_MLP, VISION_EMBED),
  "visual.merger.fc1": (MERGED, MERGED),
  "visual.merger.fc2": (MERGED, EMBED),
  "visual.deepstack_merger_list.fc1": (DEEPSTACK, MERGED, MERGED),
  "visual.deepstack_merger_list.fc2": (DEEPSTACK, MERGED, EMBED),
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
