"""LoRA: trained low-rank adapters beside frozen projections.

y = x W + (x A) B alpha / rank, added in `layers.Linear`; stacked projections have
stacked adapters, which the scan over layers walks along. qwix makes its adapters
while a call is traced, on the module that is running: here that is a copy, merged
inside the scan, and they would be lost with it.
"""

import fnmatch
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fmd_jax.models import layers

A, B = "lora_a", "lora_b"


def is_adapter(path: tuple) -> bool:
  """Whether a parameter, by its path in the model's state, is part of an adapter."""
  return path[-1] in (A, B)


def _copy(model: nnx.Module) -> nnx.Module:
  """Another module over the same arrays."""
  return nnx.merge(*nnx.split(model))


def _linears(model: nnx.Module) -> dict[str, layers.Linear]:
  named = {
    ".".join(map(str, path)): module
    for path, module in nnx.iter_modules(model)
    if isinstance(module, layers.Linear)
  }
  # The head is used by its weight, not called: nothing would be added there.
  return {name: m for name, m in sorted(named.items()) if name != "lm_head"}


def add_lora(
  model: nnx.Module, rank: int, alpha: float, targets: Sequence[str], seed: int = 0
) -> nnx.Module:
  """The model with adapters that add nothing yet: A is random, B is 0.

  Args:
    model: shares its arrays with the result and is left as it is.
    rank: of A B; 0: no adapters.
    alpha: over the rank, the adapters' scale.
    targets: shell patterns of dotted names of projections, "*.q_proj" for one.
    seed: of A.

  Raises:
    ValueError: a pattern matches no projection.
  """
  if not rank:
    return model
  model = _copy(model)
  linears, chosen = _linears(model), set()
  for pattern in targets:
    matching = set(fnmatch.filter(linears, pattern))
    if not matching:
      raise ValueError(
        f"lora.targets: no projection is called {pattern!r}; there are "
        f"{', '.join(linears)}"
      )
    chosen |= matching
  # NumPy, the same in every process: it may go into a program of all their devices.
  rng = np.random.default_rng(seed)
  for name in sorted(chosen):
    module = linears[name]
    *stack, inputs, outputs = module.kernel.shape
    a = rng.normal(size=(*stack, inputs, rank)) / np.sqrt(inputs)
    module.lora_a = nnx.Param(a.astype(np.float32))
    module.lora_b = nnx.Param(np.zeros((*stack, rank, outputs), np.float32))
    module.lora_scale = alpha / rank
  return model


def merge_lora(model: nnx.Module) -> nnx.Module:
  """The model with its adapters folded into the projections: an ordinary one.

  Args:
    model: with or without adapters; left as it is.
  """
  model = _copy(model)
  for module in _linears(model).values():
    if module.lora_scale is None:
      continue
    kernel = module.kernel[...]
    # In fp32 whatever the kernel's type: the sum is rounded once.
    product = module.lora_a[...].astype(jnp.float32) @ module.lora_b[...]
    folded = kernel.astype(jnp.float32) + product * module.lora_scale
    module.kernel = module.kernel.replace(folded.astype(kernel.dtype))
    del module.lora_a, module.lora_b, module.lora_scale
  return model
