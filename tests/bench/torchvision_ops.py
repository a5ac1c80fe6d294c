"""Declares two operators of torchvision before it is imported.

PyPI's torchvision is built for CUDA and stops at these beside a torch for CPUs; its
transforms, all that is used, need no kernel. `vllm_env.py` puts this file into the vLLM
environment as a module that every process there imports at its start.
"""

import importlib.abc
import sys

_OPS = ("nms", "qnms")


class _Finder(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name == "torchvision":
      sys.meta_path.remove(self)
      import torch

      # The declarations live as long as this object.
      self.library = torch.library.Library("torchvision", "DEF")
      for op in _OPS:
        self.library.define(
          f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
      torch._torchvision_ops = self


sys.meta_path.insert(0, _Finder())
